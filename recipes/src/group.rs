//! Group membership (spec: recipes, sections 3.8 and 6.6).

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use async_stream::{stream, try_stream};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use quorate_client::{Client, Error as ClientError};
use tracing::instrument;

use crate::cache::{Cache, CacheEvent};
use crate::chance::unique;
use crate::changes::of_children;
use crate::error::Error;
use crate::layout::{Layout, is_unique};
use crate::payload::{Payload, decode, encode};
use crate::persistent_node::PersistentNode;
use crate::protect::{join, patient};
use crate::settings::{Settings, setters};

/// What kazoo puts behind the unique part of a member's name.
const PARTY: &str = "__party__";

/// Who is there, and what each says about itself.
///
/// With [`Layout::Curator`], the default, members are those of Curator's `GroupMember`: the name of
/// the znode is the member's id. With [`Layout::Kazoo`] they are those of kazoo's `Party`, which
/// names them by chance, or after [`shallow`](Group::shallow) of its `ShallowParty`, which keeps the
/// id in the name and nothing in the znode. Each library passes over, or misreads, the members of the
/// other, so that a member of another layout is an [`Error::ForeignChild`].
///
/// A member is there for as long as its session. Those who look learn of the end of a session when
/// the ensemble has expired it.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use futures::StreamExt;
/// use quorate_recipes::Group;
///
/// let group: Group<String> = Group::new(&client, "/cluster");
/// let membership = group.join("host-7", &"10.0.0.7:8080".to_owned()).await?;
/// let mut members = group.watch();
/// while let Some(members) = members.next().await {
///     println!("{:?}", members?);
/// }
/// membership.leave().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a group does nothing by itself"]
pub struct Group<T> {
    settings: Settings,
    shallow: bool,
    payload: PhantomData<fn() -> T>,
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        Group {
            settings: self.settings.clone(),
            shallow: self.shallow,
            payload: PhantomData,
        }
    }
}

/// What happened to a [`Group`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent<T> {
    /// A member has come, or was there already.
    Joined {
        /// Its id.
        id: String,
        /// What it says about itself.
        payload: T,
    },
    /// A member says something else about itself.
    Updated {
        /// Its id.
        id: String,
        /// What it says now.
        payload: T,
    },
    /// A member has left or died.
    Left {
        /// Its id.
        id: String,
    },
    /// Everybody who was there at the beginning has been told. Comes once.
    Initialized,
}

impl<T: Payload> Group<T> {
    /// The group at `path`, where nothing but its members may be. The znode is created when it is
    /// needed.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Group {
            settings: Settings::new(client, path),
            shallow: false,
            payload: PhantomData,
        }
    }

    setters!(layout, acl);

    /// Keeps only ids: members are found by one request, however many there are.
    pub fn shallow(mut self) -> Self {
        self.shallow = true;
        self
    }

    /// Becomes a member, and waits until others can see it. An id is waited for as long as another
    /// session has it, such as one of an earlier life of this process.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`]; [`Error::ForeignChild`] for an id that reads as a name of another layout;
    /// [`Error::Client`] when the session ends, and with what a server refuses.
    ///
    /// Cancel safe: dropping the future leaves nothing behind.
    #[instrument(name = "Group::join", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn join(&self, id: &str, payload: &T) -> Result<Membership<T>, Error> {
        let unique = unique(&self.settings.client).simple();
        let name = match (self.settings.layout, self.shallow) {
            (Layout::Curator, _) => id.to_owned(),
            (Layout::Kazoo, false) => format!("{unique}{PARTY}"),
            (Layout::Kazoo, true) => format!("{unique}-{id}"),
        };
        self.id(&name)?;
        let path = join(self.path(), &name);
        let data = match self.shallow {
            true => Vec::new(),
            false => encode(&path, payload)?,
        };
        let Settings { client, acl, .. } = &self.settings;
        let node = PersistentNode::with_acl(client, path, data, acl.clone());
        node.present().await?;
        Ok(Membership {
            node,
            payload: PhantomData,
        })
    }

    /// The ids of all members. The server that answers catches up with the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignChild`]; [`Error::Client`] when the session ends, and with what a server
    /// refuses.
    pub async fn ids(&self) -> Result<BTreeSet<String>, Error> {
        let Settings { client, path, .. } = &self.settings;
        let list = || {
            let (synced, names) = (client.sync(path), client.get_children(path));
            async {
                synced.await?;
                names.await
            }
        };
        match patient().run(list).await {
            Ok(names) => self.known(names),
            Err(ClientError::NoNode { .. }) => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// All members, with what they say about themselves. The server that answers catches up with
    /// the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] that names the member that says something else; otherwise as for
    /// [`ids`](Group::ids).
    pub async fn members(&self) -> Result<BTreeMap<String, T>, Error> {
        let Settings { client, path, .. } = &self.settings;
        self.ids().await?;
        let cache = Cache::with_depth(client, path, 1);
        cache.ready().await?;
        let nodes = cache.snapshot().into_iter();
        let members = nodes.filter_map(|(path, node)| self.member(&path, &node.data));
        members.collect()
    }

    /// The ids of all members, now and after each change. Ends after an error, such as the end of
    /// the session.
    pub fn watch_ids(
        &self,
    ) -> impl Stream<Item = Result<BTreeSet<String>, Error>> + Send + Unpin + use<T> {
        let group = self.clone();
        Box::pin(try_stream! {
            let client = group.settings.client.clone();
            let mut changes = of_children(client, group.path().to_owned());
            while let Some(names) = changes.next().await {
                yield group.known(names?)?;
            }
        })
    }

    /// All members, now and after each change. Several quick changes may be seen as one.
    ///
    /// A member that says something that is no payload is passed over. The stream ends after an
    /// error, such as the end of the session.
    pub fn watch(
        &self,
    ) -> impl Stream<Item = Result<BTreeMap<String, T>, Error>> + Send + Unpin + use<T>
    where
        T: Clone,
    {
        let mut events = self.events();
        Box::pin(stream! {
            let mut members = BTreeMap::new();
            let mut initialized = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(GroupEvent::Joined { id, payload } | GroupEvent::Updated { id, payload }) => {
                        members.insert(id, payload);
                    }
                    Ok(GroupEvent::Left { id }) => drop(members.remove(&id)),
                    Ok(GroupEvent::Initialized) => initialized = true,
                    Err(Error::Payload { .. }) => continue,
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                }
                if initialized {
                    yield Ok(members.clone());
                }
            }
        })
    }

    /// Who comes, changes and goes: first everybody who is there.
    ///
    /// A member that says something that is no payload is an [`Error::Payload`], and one of another
    /// layout an [`Error::ForeignChild`], after which the stream goes on. It ends after any other
    /// error, such as the end of the session.
    pub fn events(
        &self,
    ) -> impl Stream<Item = Result<GroupEvent<T>, Error>> + Send + Unpin + use<T> {
        let group = self.clone();
        let cache = Cache::with_depth(&self.settings.client, self.path(), 1);
        Box::pin(stream! {
            let mut events = cache.events();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => if let Some(event) = group.read(event) {
                        yield event;
                    },
                    Err(error) => yield Err(error),
                }
            }
        })
    }

    fn read(&self, event: CacheEvent) -> Option<Result<GroupEvent<T>, Error>> {
        Some(match event {
            CacheEvent::Added { path, node } => self
                .member(&path, &node.data)?
                .map(|(id, payload)| GroupEvent::Joined { id, payload }),
            CacheEvent::Changed { path, node } => self
                .member(&path, &node.data)?
                .map(|(id, payload)| GroupEvent::Updated { id, payload }),
            CacheEvent::Removed { path } => {
                let id = self.id(self.name(&path)?).ok()?;
                Ok(GroupEvent::Left { id })
            }
            CacheEvent::Initialized => Ok(GroupEvent::Initialized),
            CacheEvent::Resynced => return None,
        })
    }

    /// The member whose znode is at a path; `None` for the group itself.
    fn member(&self, path: &str, data: &Bytes) -> Option<Result<(String, T), Error>> {
        let id = self.id(self.name(path)?);
        Some(id.and_then(|id| Ok((id, decode(path, data)?))))
    }

    /// The name of a child.
    fn name<'a>(&self, path: &'a str) -> Option<&'a str> {
        let name = path.strip_prefix(self.path().trim_end_matches('/'))?;
        name.strip_prefix('/').filter(|name| !name.is_empty())
    }

    /// The id of the member whose znode has this name.
    fn id(&self, name: &str) -> Result<String, Error> {
        let (party, shallow) = (in_party(name), in_shallow_party(name));
        let id = match (self.settings.layout, self.shallow) {
            (Layout::Curator, _) => (party.is_none() && shallow.is_none()).then_some(name),
            (Layout::Kazoo, false) => party,
            (Layout::Kazoo, true) => shallow,
        };
        id.map(str::to_owned).ok_or_else(|| Error::ForeignChild {
            path: join(self.path(), name),
        })
    }

    fn known(&self, names: impl IntoIterator<Item = String>) -> Result<BTreeSet<String>, Error> {
        names.into_iter().map(|name| self.id(&name)).collect()
    }
}

/// The id in a name that kazoo's `Party` gives.
fn in_party(name: &str) -> Option<&str> {
    name.strip_suffix(PARTY).filter(|id| is_unique(id))
}

/// The id in a name that kazoo's `ShallowParty` gives.
fn in_shallow_party(name: &str) -> Option<&str> {
    let (unique, id) = name.split_once('-')?;
    is_unique(unique).then_some(id)
}

/// Proof of being a member of a [`Group`]; dropping it leaves in the background.
#[derive(Debug)]
#[must_use = "dropping it leaves the group"]
pub struct Membership<T> {
    node: PersistentNode,
    payload: PhantomData<fn(T)>,
}

impl<T: Payload> Membership<T> {
    /// The znode, with its state.
    pub fn node(&self) -> &PersistentNode {
        &self.node
    }

    /// Says something else about this member, soon.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`].
    pub fn set(&self, payload: &T) -> Result<(), Error> {
        self.node.set(encode(self.node.path(), payload)?);
        Ok(())
    }

    /// Leaves, and waits until others see that.
    ///
    /// # Errors
    ///
    /// What a server refuses.
    ///
    /// Cancel safe: dropping the future leaves the rest to the background.
    pub async fn leave(self) -> Result<(), Error> {
        self.node.close().await
    }
}
