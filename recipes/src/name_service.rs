//! Services that are found by name (spec: recipes, section 3.13).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_stream::stream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use quorate_client::{Client, Error as ClientError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, instrument};
use uuid::Uuid;

use crate::cache::{Cache, CacheEvent, CachedNode};
use crate::config::Config;
use crate::error::Error;
use crate::payload::{Json, decode, encode};
use crate::persistent_node::PersistentNode;
use crate::protect::{join, patient};
use crate::settings::{Settings, setters};

/// An instance that failed so often within the window is not picked for as long.
const FAILURES: usize = 2;
const WINDOW: Duration = Duration::from_secs(30);

/// Services, and where each of their instances is, as Curator's service discovery keeps them.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::{Instance, NameService, Pick};
///
/// let names = NameService::new(&client, "/services");
/// let me = Instance::<String>::new("mail").address("10.0.0.7").port(2525);
/// let registration = names.register(&me).await?;
///
/// let mail = names.resolver::<String>("mail", Pick::RoundRobin);
/// mail.ready().await?;
/// if let Some(instance) = mail.pick() {
///     println!("{:?}:{:?}", instance.address, instance.port);
/// }
/// registration.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a name service does nothing by itself"]
pub struct NameService {
    settings: Settings,
}

/// An instance of a service, with a payload `P` of the application.
///
/// Java's reader wants to know the class of a payload that is an object, in a key `@class`; text and
/// numbers need no such thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Instance<P = serde_json::Value> {
    /// The name of the service.
    pub name: String,
    /// What tells it from other instances.
    pub id: String,
    /// Its host.
    #[serde(default)]
    pub address: Option<String>,
    /// Its port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its port for TLS.
    #[serde(default)]
    pub ssl_port: Option<u16>,
    /// What the application says about it.
    #[serde(default = "Option::default")]
    pub payload: Option<P>,
    /// When it was registered, in milliseconds since 1970.
    #[serde(default, rename = "registrationTimeUTC")]
    pub registration_time_utc: i64,
    /// How long it stays.
    #[serde(default)]
    pub service_type: ServiceType,
    /// How its address is put together.
    #[serde(default)]
    pub uri_spec: Option<UriSpec>,
    /// Is it to be used? So it is unless this says no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// How long an [`Instance`] stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServiceType {
    /// As long as the session of whoever registered it.
    #[default]
    Dynamic,
    /// As `Dynamic`, under a numbered name. Such instances are found, but not registered here.
    DynamicSequential,
    /// Until it is removed.
    Static,
    /// Until it is removed.
    Permanent,
}

/// A template for the address of an instance, from Curator's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UriSpec {
    /// Its parts.
    pub parts: Vec<UriPart>,
}

/// A piece of text of a [`UriSpec`], or the name of a variable such as `address` or `port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UriPart {
    /// The text or the name.
    pub value: String,
    /// Is it a name?
    pub variable: bool,
}

impl<P> Instance<P> {
    /// An instance of the service `name`, with an id by chance.
    pub fn new(name: impl Into<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Instance {
            name: name.into(),
            id: Uuid::new_v4().to_string(),
            address: None,
            port: None,
            ssl_port: None,
            payload: None,
            registration_time_utc: now
                .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX)),
            service_type: ServiceType::Dynamic,
            uri_spec: None,
            enabled: None,
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the host.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets the port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: P) -> Self {
        self.payload = Some(payload);
        self
    }

    /// The address by the [template](Instance::uri_spec), if there is one.
    pub fn uri(&self) -> Option<String> {
        let parts = self.uri_spec.as_ref()?.parts.iter();
        Some(parts.map(|part| self.part(part)).collect())
    }

    fn part(&self, part: &UriPart) -> String {
        let number = |number: Option<u16>| number.map_or(String::new(), |port| port.to_string());
        match (part.variable, part.value.as_str()) {
            (false, text) => text.to_owned(),
            (true, "scheme") => match self.ssl_port {
                Some(_) => "https".to_owned(),
                None => "http".to_owned(),
            },
            (true, "name") => self.name.clone(),
            (true, "id") => self.id.clone(),
            (true, "address") => self.address.clone().unwrap_or_default(),
            (true, "port") => number(self.port),
            (true, "ssl-port") => number(self.ssl_port),
            (true, "registration-time-utc") => self.registration_time_utc.to_string(),
            (true, "[") => "{".to_owned(),
            (true, "]") => "}".to_owned(),
            (true, _) => String::new(),
        }
    }
}

/// What is asked of a payload of an [`Instance`].
pub trait InstancePayload: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<P: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> InstancePayload for P {}

impl NameService {
    /// The services below `path`, Curator's base path.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        NameService {
            settings: Settings::new(client, path),
        }
    }

    setters!(acl);

    /// Registers an instance for as long as the value that is returned and the session live, and
    /// waits until others can find it. It is not registered anew on a reconnect, so that nobody sees
    /// it go and come.
    ///
    /// # Errors
    ///
    /// As for [`Group::join`](crate::Group::join).
    ///
    /// Cancel safe: dropping the future leaves nothing behind.
    #[instrument(name = "NameService::register", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn register<P: InstancePayload>(
        &self,
        instance: &Instance<P>,
    ) -> Result<PersistentNode, Error> {
        let path = self.instance_path(instance);
        let data = encode(&path, &Json(instance.clone()))?;
        let Settings { client, acl, .. } = &self.settings;
        let node = PersistentNode::with_acl(client, path, data, acl.clone());
        node.present().await?;
        Ok(node)
    }

    /// Registers an instance until it is [withdrawn](NameService::withdraw), whoever lives: one
    /// that does not know of this service by itself. Replaces what is registered under its id.
    ///
    /// # Errors
    ///
    /// As for [`Config::set`].
    ///
    /// Dropping the future gives up the wait only.
    pub async fn publish<P: InstancePayload>(&self, instance: &Instance<P>) -> Result<(), Error> {
        let Settings { client, acl, .. } = &self.settings;
        let mut instance = instance.clone();
        instance.service_type = ServiceType::Permanent;
        let config = Config::new(client, self.instance_path(&instance)).acl(acl.clone());
        config.set(&Json(instance)).await
    }

    /// Removes what was [published](NameService::publish).
    ///
    /// # Errors
    ///
    /// As for [`Config::delete`].
    ///
    /// Dropping the future gives up the wait only.
    pub async fn withdraw<P>(&self, instance: &Instance<P>) -> Result<(), Error> {
        let path = self.instance_path(instance);
        let config: Config<String> = Config::new(&self.settings.client, path);
        config.delete().await
    }

    /// The names of all services.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] when the session ends, and with what a server refuses.
    pub async fn services(&self) -> Result<Vec<String>, Error> {
        let Settings { client, path, .. } = &self.settings;
        let list = || {
            let (synced, names) = (client.sync(path), client.get_children(path));
            async {
                synced.await?;
                names.await
            }
        };
        match patient().run(list).await {
            Ok(mut names) => {
                names.sort_unstable();
                Ok(names)
            }
            Err(ClientError::NoNode { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The instances of a service. The server that answers catches up with the leader before. What
    /// is no instance is passed over.
    ///
    /// # Errors
    ///
    /// As for [`services`](NameService::services).
    pub async fn resolve<P: InstancePayload>(&self, name: &str) -> Result<Vec<Instance<P>>, Error> {
        let client = &self.settings.client;
        let path = join(self.path(), name);
        patient().run(|| client.sync(&path)).await?;
        let cache = Cache::with_depth(client, path, 1);
        cache.ready().await?;
        Ok(instances(&cache))
    }

    /// The instances of a service, now and after each change. Several quick changes may be seen as
    /// one. Ends after an error, such as the end of the session.
    pub fn watch<P: InstancePayload>(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Vec<Instance<P>>, Error>> + Send + Unpin + use<P> {
        let cache = Cache::with_depth(&self.settings.client, join(self.path(), name), 1);
        Box::pin(stream! {
            let mut events = cache.events();
            let mut initialized = false;
            while let Some(event) = events.next().await {
                initialized |= matches!(event, Ok(CacheEvent::Initialized));
                match event {
                    Ok(CacheEvent::Resynced) => {}
                    Ok(_) if initialized => yield Ok(instances(&cache)),
                    Ok(_) => {}
                    Err(error) => yield Err(error),
                }
            }
        })
    }

    /// Follows the instances of a service, and picks one at a time.
    pub fn resolver<P: InstancePayload>(&self, name: &str, pick: Pick) -> Resolver<P> {
        Resolver {
            cache: Cache::with_depth(&self.settings.client, join(self.path(), name), 1),
            pick,
            turn: AtomicUsize::new(fastrand::usize(..)),
            favourite: Mutex::new(None),
            failures: Mutex::default(),
            payload: std::marker::PhantomData,
        }
    }

    fn instance_path<P>(&self, instance: &Instance<P>) -> String {
        join(&join(self.path(), &instance.name), &instance.id)
    }
}

/// The instances in a copy of a service, by id.
fn instances<P: InstancePayload>(cache: &Cache) -> Vec<Instance<P>> {
    let root = cache.path().to_owned();
    let nodes = cache.snapshot().into_iter();
    let found = nodes.filter(|(path, _)| *path != root);
    found
        .filter_map(|(path, node)| read(&path, &node))
        .collect()
}

fn read<P: InstancePayload>(path: &str, node: &CachedNode) -> Option<Instance<P>> {
    match decode(path, &node.data) {
        Ok(Json(instance)) => Some(instance),
        Err(error) => {
            debug!(%error, "passing over what is no instance");
            None
        }
    }
}

/// How a [`Resolver`] picks an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pick {
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The same for as long as it is there.
    Sticky,
}

/// Follows the instances of a service, and picks one at a time. It ends with the session.
#[derive(Debug)]
#[must_use = "the instances are followed until this is dropped"]
pub struct Resolver<P = serde_json::Value> {
    cache: Cache,
    pick: Pick,
    turn: AtomicUsize,
    favourite: Mutex<Option<String>>,
    /// When each instance failed lately.
    failures: Mutex<HashMap<String, Vec<Instant>>>,
    payload: std::marker::PhantomData<fn() -> Arc<P>>,
}

impl<P: InstancePayload> Resolver<P> {
    /// Waits until all instances that were there at the beginning are known.
    ///
    /// # Errors
    ///
    /// As for [`Cache::ready`].
    pub async fn ready(&self) -> Result<(), Error> {
        self.cache.ready().await
    }

    /// All instances that are known now, by id.
    pub fn instances(&self) -> BTreeMap<String, Instance<P>> {
        let found = instances(&self.cache).into_iter();
        found
            .map(|instance| (instance.id.clone(), instance))
            .collect()
    }

    /// An instance that is enabled and has not failed lately; `None` if there is none.
    pub fn pick(&self) -> Option<Instance<P>> {
        let mut usable: Vec<_> = self.instances().into_values().collect();
        usable.retain(|instance| instance.enabled != Some(false) && self.is_up(&instance.id));
        if usable.is_empty() {
            return None;
        }
        let chosen = match self.pick {
            Pick::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % usable.len(),
            Pick::Random => fastrand::usize(..usable.len()),
            Pick::Sticky => {
                let mut favourite = self.favourite.lock();
                let known = usable
                    .iter()
                    .position(|one| Some(&one.id) == favourite.as_ref());
                let chosen = known.unwrap_or_else(|| fastrand::usize(..usable.len()));
                *favourite = Some(usable[chosen].id.clone());
                chosen
            }
        };
        Some(usable.swap_remove(chosen))
    }

    /// Says that an instance has failed. One that fails twice within half a minute is not picked for
    /// as long.
    pub fn failed(&self, id: &str) {
        let mut failures = self.failures.lock();
        let known = self.instances();
        failures.retain(|id, _| known.contains_key(id));
        failures
            .entry(id.to_owned())
            .or_default()
            .push(Instant::now());
    }

    fn is_up(&self, id: &str) -> bool {
        let mut failures = self.failures.lock();
        let Some(times) = failures.get_mut(id) else {
            return true;
        };
        times.retain(|time| time.elapsed() < WINDOW);
        times.len() < FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_written_with_curators_keys() {
        let mut instance = Instance::<String>::new("mail")
            .id("7")
            .address("host")
            .port(25);
        instance.registration_time_utc = 1;
        let json = serde_json::to_string(&instance).unwrap();
        assert_eq!(
            json,
            r#"{"name":"mail","id":"7","address":"host","port":25,"sslPort":null,"payload":null,"registrationTimeUTC":1,"serviceType":"DYNAMIC","uriSpec":null}"#
        );
    }

    #[test]
    fn instances_that_curator_wrote_are_read() {
        let json = r#"{"name":"mail","id":"7","address":"host","port":25,"sslPort":443,
            "payload":{"@class":"a.B","x":1},"registrationTimeUTC":1,"serviceType":"STATIC",
            "uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},
            {"value":"address","variable":true}]},"enabled":false,"unknown":true}"#;
        let instance: Instance = serde_json::from_str(json).unwrap();
        assert_eq!(instance.uri().unwrap(), "https://host");
        assert_eq!(instance.payload.as_ref().unwrap()["@class"], "a.B");
        assert_eq!(instance.service_type, ServiceType::Static);
        let again = serde_json::to_string(&instance).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&again).unwrap(), instance);
        let short: Instance = serde_json::from_str(r#"{"name":"mail","id":"7"}"#).unwrap();
        assert_eq!((short.port, short.enabled), (None, None));
    }
}
