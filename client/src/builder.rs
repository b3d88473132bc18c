//! How a client is set up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quorate_proto::frame;
use quorate_proto::path;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::{Client, Shared};
use crate::connect_string;
use crate::driver::{Credential, Driver, Settings};
use crate::error::Error;
use crate::host::Host;
use crate::membership;
use crate::retry::RetryPolicy;
use crate::sasl::DigestMd5;
use crate::session::{Session, Status};
use crate::stream::Security;
#[cfg(feature = "tls")]
use crate::tls::{Tls, TlsOptions};

/// Sets up a [`Client`]. The defaults suit most applications.
///
/// ```no_run
/// # async fn demo() -> Result<(), quorate_client::Error> {
/// use std::time::Duration;
/// use quorate_client::Client;
///
/// let client = Client::builder()
///     .session_timeout(Duration::from_secs(10))
///     .credential("digest", "alice:secret")
///     .connect("zk1:2181,zk2:2181,zk3:2181/app")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    session_timeout: Duration,
    connect_timeout: Option<Duration>,
    session: Option<Session>,
    credentials: Vec<Credential>,
    chroot: Option<String>,
    read_only: bool,
    shuffle: bool,
    follow_membership: bool,
    retry: RetryPolicy,
    max_frame: usize,
    max_queued: usize,
    security: Security,
    /// The runtime that it is in, unless set.
    host: Option<Host>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            session_timeout: Duration::from_secs(30),
            connect_timeout: None,
            session: None,
            credentials: Vec::new(),
            chroot: None,
            read_only: false,
            shuffle: true,
            follow_membership: false,
            retry: RetryPolicy::default(),
            max_frame: frame::DEFAULT_MAX_FRAME,
            max_queued: 16 * 1024,
            security: Security::default(),
            host: None,
        }
    }
}

impl ClientBuilder {
    /// The session timeout to ask for, 30 s unless set. Servers grant one within their own limits,
    /// by default 2 to 20 of their ticks; [`Client::session`] tells which.
    ///
    /// A short one finds the death of a client soon, and takes a slow one for dead.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// For how long [`connect`](Self::connect) tries to reach a server; the session timeout unless
    /// set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Goes on with a session, from [`Client::session`] or [`Client::detach`], instead of opening
    /// a new one. Its ephemeral znodes stay; watches and credentials do not come along. A client
    /// that still uses the session loses its connection.
    pub fn session(mut self, session: Session) -> Self {
        self.session = Some(session);
        self
    }

    /// Presents a credential on every connection, before any other request; can be repeated.
    pub fn credential(mut self, scheme: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        self.credentials.push(Credential {
            scheme: scheme.into(),
            data: data.into(),
        });
        self
    }

    /// Authenticates every connection as `user` by SASL with the mechanism DIGEST-MD5, before any
    /// other request. The password is not sent, and the server has to prove that it knows it too.
    /// What passes over the connection is not protected by it; TLS does that.
    ///
    /// Servers know the connection as `sasl:user` from then on. If they do not accept the user,
    /// the client ends with [`Error::SaslFailed`] in [`State::AuthFailed`](crate::State::AuthFailed).
    pub fn sasl_digest_md5(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.security.sasl = Some(DigestMd5 {
            user: user.into(),
            password: password.into(),
        });
        self
    }

    /// Secures every connection with TLS; see [`TlsOptions`]. Needs the feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, options: TlsOptions) -> Self {
        self.security.tls = Some(Tls::Files(options));
        self
    }

    /// Secures every connection with TLS as a configuration of [`rustls`](crate::rustls) says: for
    /// keys that are in no file, sessions that are resumed, or a policy of one's own. Needs the
    /// feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls_config(mut self, config: Arc<crate::rustls::ClientConfig>) -> Self {
        self.security.tls = Some(Tls::Config(config));
        self
    }

    /// Takes the subtree at `path` for the whole tree; inside the chroot of the connect string if
    /// that has one. The znode must exist, or be created without the chroot.
    pub fn chroot(mut self, path: impl Into<String>) -> Self {
        self.chroot = Some(path.into());
        self
    }

    /// Accepts servers that are cut off from their ensemble and only read
    /// ([`State::ConnectedReadOnly`](crate::State::ConnectedReadOnly)), until one that writes can be
    /// reached; no unless set.
    ///
    /// Writes fail with [`Error::ReadOnly`] then, without being sent. Servers that only read open
    /// sessions of their own. The ensemble does not know those: the first server that writes gives
    /// the client its lasting session. One that the ensemble knows is not taken on by servers that
    /// only read, for they cannot tell whether it still lives.
    ///
    /// Meanwhile one server after the other is asked whether it writes, at first after 100 ms, in
    /// the end every minute.
    pub fn read_only(mut self, allowed: bool) -> Self {
        self.read_only = allowed;
        self
    }

    /// Tries the servers in random order, so that clients spread over them; yes unless set.
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// Follows the membership of the ensemble: whenever it describes itself anew, its servers take
    /// the place of those in the connect string, as by [`Client::update_servers`]; no unless set.
    ///
    /// It needs an ensemble that says where clients reach its servers, as in
    /// `server.1=zk1:2888:3888;2181`, by names and ports that hold where this client runs too. A
    /// description that does not say so changes nothing.
    ///
    /// A client that uses TLS needs the secure port as well, as in
    /// `server.1=zk1:2888:3888;2181;2281`, which servers before 3.10 do not write down: with them it
    /// stays with the servers that it was given.
    pub fn follow_membership(mut self, follow: bool) -> Self {
        self.follow_membership = follow;
        self
    }

    /// What [`Client::retry`] and its sibling do.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The longest request in bytes, 1 048 575 unless set, which is also the servers' default
    /// (`jute.maxbuffer`). A server closes the connection upon a longer one than it takes.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// How many requests may wait to be sent, 16 384 unless set; so many more may wait for their
    /// replies. Requests beyond fail with [`Error::QueueFull`].
    pub fn max_queued(mut self, requests: usize) -> Self {
        self.max_queued = requests.max(1);
        self
    }

    /// Lets it run in a world of a test.
    #[cfg(feature = "simulation")]
    #[doc(hidden)]
    pub fn world(mut self, world: Arc<dyn crate::simulation::World>) -> Self {
        self.security.world = Some(Arc::clone(&world));
        self.host = Some(Host::Simulated(world));
        self
    }

    /// Connects to the first of the servers that answers.
    ///
    /// `servers` is `host:port[,host:port…][/chroot]`; the port defaults to 2181.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if none answers in time, [`Error::SessionExpired`] if a session that was
    /// to be continued is over, [`Error::AuthFailed`] or [`Error::SaslFailed`] if a credential was
    /// refused.
    ///
    /// Cancel safe: dropping the future closes what was begun.
    pub async fn connect(self, servers: &str) -> Result<Client, Error> {
        let within = self.connect_timeout.unwrap_or(self.session_timeout);
        let (client, status) = self.start(servers)?;
        let mut states = status.subscribe();
        let connected = states.wait_for(|state| state.is_connected() || state.is_over());
        // The state is not locked any more when its end is looked at.
        let connected = timeout(within, connected).await;
        let connected = connected.map(|state| state.is_ok_and(|state| state.is_connected()));
        match connected {
            Ok(true) => {}
            Ok(false) => return Err(status.end()),
            Err(_) => {
                let late = || Arc::new(io::Error::from(io::ErrorKind::TimedOut));
                return Err(Error::Connect {
                    servers: servers.to_owned(),
                    within,
                    source: status.last_failure().unwrap_or_else(late),
                });
            }
        }
        Ok(client)
    }

    /// Answers a client at once that connects in the background, for as long as it takes. Requests
    /// wait until it has.
    ///
    /// # Errors
    ///
    /// If the connect string or the chroot cannot be understood.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connect_lazy(self, servers: &str) -> Result<Client, Error> {
        self.start(servers).map(|(client, _)| client)
    }

    fn start(self, servers: &str) -> Result<(Client, Arc<Status>), Error> {
        let (mut servers, mut chroot) = connect_string::parse(servers)?;
        if let Some(inner) = &self.chroot {
            path::validate(inner)?;
            chroot = chroot.enter(inner);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.security.tls {
            tls.check()?;
        }
        if self.shuffle {
            fastrand::shuffle(&mut servers);
        }
        let (commands, command_receiver) = mpsc::channel(self.max_queued);
        let (control, control_receiver) = mpsc::unbounded_channel();
        let status = Arc::new(Status::new(self.session.clone()));
        let host = self
            .host
            .unwrap_or_else(|| Host::Runtime(Handle::current()));
        let secure = self.security.uses_tls();
        let settings = Settings {
            servers,
            timeout: self.session_timeout,
            read_only: self.read_only,
            credentials: self.credentials,
            saved: self.session,
            max_in_flight: self.max_queued,
            security: self.security,
        };
        let driver = Driver::new(
            settings,
            command_receiver,
            control_receiver,
            Arc::clone(&status),
        );
        host.spawn(driver.run());
        let shared = Arc::new(Shared {
            commands,
            control,
            status: Arc::clone(&status),
            leaving: AtomicBool::new(false),
            host,
            retry: self.retry,
            max_frame: self.max_frame,
            max_queued: self.max_queued,
            shuffle: self.shuffle,
        });
        if self.follow_membership {
            let following = membership::follow(Arc::downgrade(&shared), secure);
            shared.host.spawn(following);
        }
        Ok((Client::new(shared, chroot), status))
    }
}
