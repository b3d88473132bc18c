//! The operations on znodes.

use bytes::Bytes;
use quorate_proto::jute::Encode;
use quorate_proto::path::{self, PathError};
use quorate_proto::{
    Acl, AddWatchMode, Create2Response, ErrorCode, GetAclResponse, GetAllChildrenNumberResponse,
    GetChildren2Response, GetChildrenResponse, GetDataResponse, GetEphemeralsResponse, OpCode,
    PathRecord, ReconfigRequest, SetDataRequest, Stat, StatResponse, VersionRequest,
    WatchRequest as WatchRecord, WatchedRequest, WhoAmIResponse,
};
use tokio::sync::oneshot;

use crate::client::{ANY_VERSION, Client};
use crate::create::{CreateOptions, Created, Data, encode_acl};
use crate::driver::{Command, Credential};
use crate::error::Error;
use crate::membership::EnsembleConfig;
use crate::request::{self, Answer, Decoder, Reply, Subject};
use crate::transaction::{MultiRead, Transaction};
use crate::watch::{OneshotWatch, PersistentWatch, Subscription, WatchKind};

/// Bytes of a frame besides its path and data, as a rule: enough for an open ACL.
const FRAME_OVERHEAD: usize = 64;
/// The znode that describes the ensemble, outside of every chroot.
const CONFIG_PATH: &str = "/zookeeper/config";

/// Operations on znodes.
///
/// All of them fail with [`Error::InvalidPath`] if the path cannot name a znode, with
/// [`Error::NoAuth`] if the ACL does not permit them, with [`Error::ConnectionLoss`] if the
/// connection is lost, and with [`Error::SessionExpired`] when the session is over.
impl Client {
    /// Creates a znode. A [`CreateMode`](crate::CreateMode) alone stands for options with an open
    /// ACL.
    ///
    /// # Errors
    ///
    /// [`Error::NodeExists`]; [`Error::NoNode`] if the parent does not exist;
    /// [`Error::NoChildrenForEphemerals`]; [`Error::InvalidAcl`]; [`Error::QuotaExceeded`].
    pub fn create<'a>(
        &self,
        path: &str,
        data: impl Into<Data<'a>>,
        options: impl Into<CreateOptions<'a>>,
    ) -> Reply<Created> {
        let (data, options) = (data.into(), options.into());
        let decode: Decoder<Created> = |subject, answer, _| {
            let created: Create2Response<'_> = subject.decode(answer)?;
            Ok(Created {
                path: subject.chroot.show(created.path),
                stat: created.stat,
            })
        };
        let checked = if options.mode().is_sequential() {
            path::validate_sequential(path)
        } else {
            path::validate(path)
        };
        let operation = match (checked, options.operation()) {
            (Ok(()), Ok(operation)) => operation,
            (Err(error), _) => return self.refuse(OpCode::Create2, path, error.into(), decode),
            (_, Err(reason)) => {
                let error = Error::InvalidArgument {
                    path: path.to_owned(),
                    reason,
                };
                return self.refuse(OpCode::Create2, path, error, decode);
            }
        };
        let size = FRAME_OVERHEAD + path.len() + data.len();
        let frame = request::encode(operation, size, |out| {
            options.encode(&self.server_path(operation, path), data, out);
        });
        self.enqueue(self.subject(operation, path), frame, None, decode)
    }

    /// Deletes a znode that has no children, if it has the version; `None` takes any.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; [`Error::BadVersion`]; [`Error::NotEmpty`].
    pub fn delete(&self, path: &str, version: impl Into<Option<i32>>) -> Reply<()> {
        let version = version.into().unwrap_or(ANY_VERSION);
        self.call(
            OpCode::Delete,
            path,
            0,
            |path, out| VersionRequest { path, version }.encode(out),
            nothing,
        )
    }

    /// The stat of a znode, or `None` if it does not exist.
    pub fn exists(&self, path: &str) -> Reply<Option<Stat>> {
        self.read(OpCode::Exists, path, |subject, answer, _| {
            existing(subject, answer)
        })
    }

    /// As [`exists`](Client::exists), and watches for the znode to be created, set or deleted.
    pub fn exists_watched(&self, path: &str) -> Reply<(Option<Stat>, OneshotWatch)> {
        let kind = WatchKind::Data { absent: false };
        self.read_watched(OpCode::Exists, path, kind, |subject, answer, watch| {
            Ok((existing(subject, answer)?, watched(watch)?))
        })
    }

    /// The data and the stat of a znode. No data at all reads as empty data; see
    /// [`get_data_or_null`](Client::get_data_or_null).
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_data(&self, path: &str) -> Reply<(Bytes, Stat)> {
        self.read(OpCode::GetData, path, |subject, answer, _| {
            let (data, stat) = data(subject, answer)?;
            Ok((data.unwrap_or_default(), stat))
        })
    }

    /// The data and the stat of a znode; `None` if it has no data, which is not the same as empty
    /// data.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_data_or_null(&self, path: &str) -> Reply<(Option<Bytes>, Stat)> {
        self.read(OpCode::GetData, path, |subject, answer, _| {
            data(subject, answer)
        })
    }

    /// As [`get_data`](Client::get_data), and watches for the znode to be set or deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; there is no watch then, which
    /// [`exists_watched`](Client::exists_watched) would leave.
    pub fn get_data_watched(&self, path: &str) -> Reply<(Bytes, Stat, OneshotWatch)> {
        let kind = WatchKind::Data { absent: false };
        self.read_watched(OpCode::GetData, path, kind, |subject, answer, watch| {
            let (data, stat) = data(subject, answer)?;
            Ok((data.unwrap_or_default(), stat, watched(watch)?))
        })
    }

    /// Replaces the data of a znode, if it has the version; `None` takes any. Answers the new stat.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; [`Error::BadVersion`]; [`Error::QuotaExceeded`].
    pub fn set_data<'a>(
        &self,
        path: &str,
        data: impl Into<Data<'a>>,
        version: impl Into<Option<i32>>,
    ) -> Reply<Stat> {
        let version = version.into().unwrap_or(ANY_VERSION);
        let data = data.into();
        self.call(
            OpCode::SetData,
            path,
            data.len(),
            |path, out| {
                let data = data.as_slice();
                SetDataRequest {
                    path,
                    data,
                    version,
                }
                .encode(out);
            },
            stat,
        )
    }

    /// The ACL and the stat of a znode.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_acl(&self, path: &str) -> Reply<(Vec<Acl<'static>>, Stat)> {
        self.call(
            OpCode::GetAcl,
            path,
            0,
            |path, out| PathRecord { path }.encode(out),
            |subject, answer, _| {
                let found: GetAclResponse<'_> = subject.decode(answer)?;
                let acl = found.acl.into_iter().map(Acl::into_owned).collect();
                Ok((acl, found.stat))
            },
        )
    }

    /// Replaces the ACL of a znode, if its `aversion` is `version`; `None` takes any. Answers the
    /// new stat.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; [`Error::BadVersion`]; [`Error::InvalidAcl`].
    pub fn set_acl(
        &self,
        path: &str,
        acl: &[Acl<'_>],
        version: impl Into<Option<i32>>,
    ) -> Reply<Stat> {
        let version = version.into().unwrap_or(ANY_VERSION);
        self.call(
            OpCode::SetAcl,
            path,
            0,
            |path, out| {
                path.encode(out);
                encode_acl(acl, out);
                version.encode(out);
            },
            stat,
        )
    }

    /// The names of the children, in no order.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_children(&self, path: &str) -> Reply<Vec<String>> {
        self.read(OpCode::GetChildren, path, |subject, answer, _| {
            let found: GetChildrenResponse<'_> = subject.decode(answer)?;
            Ok(owned(found.children))
        })
    }

    /// The names of the children, in no order, and the stat of the parent.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_children_and_stat(&self, path: &str) -> Reply<(Vec<String>, Stat)> {
        self.read(OpCode::GetChildren2, path, |subject, answer, _| {
            children(subject, answer)
        })
    }

    /// As [`get_children_and_stat`](Client::get_children_and_stat), and watches for a child to be
    /// created or deleted, or the znode itself to be deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_children_watched(&self, path: &str) -> Reply<(Vec<String>, Stat, OneshotWatch)> {
        let kind = WatchKind::Children;
        self.read_watched(
            OpCode::GetChildren2,
            path,
            kind,
            |subject, answer, watch| {
                let (names, stat) = children(subject, answer)?;
                Ok((names, stat, watched(watch)?))
            },
        )
    }

    /// The number of all descendants of a znode.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_all_children_number(&self, path: &str) -> Reply<u32> {
        self.call(
            OpCode::GetAllChildrenNumber,
            path,
            0,
            |path, out| PathRecord { path }.encode(out),
            |subject, answer, _| {
                let found: GetAllChildrenNumberResponse = subject.decode(answer)?;
                Ok(u32::try_from(found.total).unwrap_or(0))
            },
        )
    }

    /// The paths of this session's ephemeral znodes that begin with `prefix`, in no order. The
    /// prefix is text, not a parent: `/a` finds `/a/x` and `/ab`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`] if the prefix does not begin with `/`.
    pub fn get_ephemerals(&self, prefix: &str) -> Reply<Vec<String>> {
        let decode: Decoder<Vec<String>> = |subject, answer, _| {
            let found: GetEphemeralsResponse<'_> = subject.decode(answer)?;
            let inside = found.paths.into_iter();
            Ok(inside
                .filter_map(|path| subject.chroot.strip(path))
                .map(str::to_owned)
                .collect())
        };
        if !prefix.starts_with('/') {
            let path = prefix.to_owned();
            let error = PathError::Relative { path }.into();
            return self.refuse(OpCode::GetEphemerals, prefix, error, decode);
        }
        self.call_unchecked(
            OpCode::GetEphemerals,
            prefix,
            0,
            |path, out| PathRecord { path }.encode(out),
            None,
            decode,
        )
    }

    /// Waits until the server that this client is connected to has caught up with the leader, which
    /// makes sure that it still leads, so that a read that is issued behind sees every write that
    /// was acknowledged before, as long as the connection lasts.
    /// [`linearizable`](Client::linearizable) has the two in one.
    pub fn sync(&self, path: &str) -> Reply<()> {
        self.call(
            OpCode::Sync,
            path,
            0,
            |path, out| PathRecord { path }.encode(out),
            nothing,
        )
    }

    /// Several writes that happen all together or not at all.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// Several reads in one request.
    pub fn multi_read(&self) -> MultiRead {
        MultiRead::new(self.clone())
    }

    /// Watches a znode, which need not exist: all its events and those of its list of children,
    /// until the stream is dropped.
    pub fn watch(&self, path: &str) -> Reply<PersistentWatch> {
        self.add_watch(path, WatchKind::Persistent, AddWatchMode::Persistent)
    }

    /// Watches a znode, which need not exist, and all its descendants: creations, changes of data
    /// and deletions, until the stream is dropped.
    pub fn watch_recursive(&self, path: &str) -> Reply<PersistentWatch> {
        self.add_watch(
            path,
            WatchKind::PersistentRecursive,
            AddWatchMode::PersistentRecursive,
        )
    }

    /// Adds a credential to the session: this connection and every later one presents it.
    ///
    /// # Errors
    ///
    /// [`Error::AuthFailed`] if the server refuses it, which ends the session's handle. A lost
    /// connection is no error: the next one answers.
    pub fn add_auth(&self, scheme: impl Into<String>, data: impl Into<Vec<u8>>) -> Reply<()> {
        let credential = Credential {
            scheme: scheme.into(),
            data: data.into(),
        };
        let subject = self.subject(OpCode::Auth, "");
        let (respond, receiver) = oneshot::channel();
        match self.submit(Command::Auth(credential, respond), "") {
            Ok(()) => Reply::waiting(receiver, subject, None, nothing),
            Err(error) => Reply::refused(error, subject, nothing),
        }
    }

    /// The identities of this connection, in no order.
    pub fn who_am_i(&self) -> Reply<Vec<Identity>> {
        let frame = request::encode(OpCode::WhoAmI, FRAME_OVERHEAD, |_| {});
        let subject = self.subject(OpCode::WhoAmI, "");
        self.enqueue(subject, frame, None, |subject, answer, _| {
            let found: WhoAmIResponse<'_> = subject.decode(answer)?;
            let identities = found.infos.into_iter().map(|info| Identity {
                scheme: info.scheme.to_owned(),
                user: info.user.to_owned(),
            });
            Ok(identities.collect())
        })
    }

    /// The servers of the ensemble, from `/zookeeper/config` outside of any chroot. None on a server
    /// that stands alone.
    pub fn get_config(&self) -> Reply<EnsembleConfig> {
        self.at_root()
            .read(OpCode::GetData, CONFIG_PATH, |subject, answer, _| {
                config(subject, answer)
            })
    }

    /// As [`get_config`](Client::get_config), and watches for a change.
    /// [`follow_membership`](crate::ClientBuilder::follow_membership) keeps a client up to date.
    pub fn get_config_watched(&self) -> Reply<(EnsembleConfig, OneshotWatch)> {
        let kind = WatchKind::Data { absent: false };
        self.at_root().read_watched(
            OpCode::GetData,
            CONFIG_PATH,
            kind,
            |subject, answer, watch| Ok((config(subject, answer)?, watched(watch)?)),
        )
    }

    /// Changes the membership of the ensemble, and answers what it is then. With a `version`, from
    /// [`EnsembleConfig::version`], only if that is still the current one.
    ///
    /// ```no_run
    /// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::Membership;
    ///
    /// let before = client.get_config().await?;
    /// let change = Membership::Change {
    ///     joining: Some("server.4=zk4:2888:3888;2181"),
    ///     leaving: Some("1"),
    /// };
    /// let after = client.reconfig(change, before.version).await?;
    /// println!("{} servers in version {:x}", after.members.len(), after.version);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::BadVersion`]; [`Error::NoAuth`], since by default none but `super` may;
    /// [`Error::Server`] with `RECONFIG_DISABLED`, `RECONFIG_IN_PROGRESS`, `NEW_CONFIG_NO_QUORUM`,
    /// `BAD_ARGUMENTS`, or `UNIMPLEMENTED` on a standalone server.
    pub fn reconfig(
        &self,
        change: Membership<'_>,
        version: impl Into<Option<i64>>,
    ) -> Reply<EnsembleConfig> {
        let (joining, leaving, new_members) = match change {
            Membership::Change { joining, leaving } => (joining, leaving, None),
            Membership::Replace(members) => (None, None, Some(members)),
        };
        let config_id = version.into().unwrap_or(i64::from(ANY_VERSION));
        let size = [joining, leaving, new_members].map(|text| text.map_or(0, str::len));
        let size = FRAME_OVERHEAD + size.iter().sum::<usize>();
        let frame = request::encode(OpCode::Reconfig, size, |out| {
            ReconfigRequest {
                joining,
                leaving,
                new_members,
                config_id,
            }
            .encode(out);
        });
        let subject = self.at_root().subject(OpCode::Reconfig, CONFIG_PATH);
        self.enqueue(subject, frame, None, |subject, answer, _| {
            config(subject, answer)
        })
    }
}

/// What [`Client::reconfig`] does to the membership of an ensemble. Servers are written as in
/// `zoo.cfg`, `server.3=host:2888:3888:participant;2181`, and separated by commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership<'a> {
    /// Servers come and go.
    Change {
        /// Servers to add, or to change.
        joining: Option<&'a str>,
        /// Ids of servers to remove, separated by commas.
        leaving: Option<&'a str>,
    },
    /// These are the servers.
    Replace(&'a str),
}

/// One of the identities under which servers know a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The scheme, such as `ip` or `digest`.
    pub scheme: String,
    /// The user, without any secret.
    pub user: String,
}

/// From methods to requests.
impl Client {
    fn refuse<T>(
        &self,
        operation: OpCode,
        path: &str,
        error: Error,
        decode: Decoder<T>,
    ) -> Reply<T> {
        Reply::refused(error, self.subject(operation, path), decode)
    }

    /// Queues an operation on a path; `extra` is the size of the request besides the path.
    fn call<T>(
        &self,
        operation: OpCode,
        path: &str,
        extra: usize,
        body: impl FnOnce(&str, &mut Vec<u8>),
        decode: Decoder<T>,
    ) -> Reply<T> {
        match path::validate(path) {
            Ok(()) => self.call_unchecked(operation, path, extra, body, None, decode),
            Err(error) => self.refuse(operation, path, error.into(), decode),
        }
    }

    fn call_unchecked<T>(
        &self,
        operation: OpCode,
        path: &str,
        extra: usize,
        body: impl FnOnce(&str, &mut Vec<u8>),
        watch: Option<WatchKind>,
        decode: Decoder<T>,
    ) -> Reply<T> {
        let server_path = self.server_path(operation, path);
        let size = FRAME_OVERHEAD + server_path.len() + extra;
        let frame = request::encode(operation, size, |out| body(&server_path, out));
        let watch = watch.map(|kind| (kind, self.subscription(&server_path)));
        self.enqueue(self.subject(operation, path), frame, watch, decode)
    }

    fn read<T>(&self, operation: OpCode, path: &str, decode: Decoder<T>) -> Reply<T> {
        self.call(
            operation,
            path,
            0,
            |path, out| WatchedRequest { path, watch: false }.encode(out),
            decode,
        )
    }

    fn read_watched<T>(
        &self,
        operation: OpCode,
        path: &str,
        kind: WatchKind,
        decode: Decoder<T>,
    ) -> Reply<T> {
        if let Err(error) = path::validate(path) {
            return self.refuse(operation, path, error.into(), decode);
        }
        self.call_unchecked(
            operation,
            path,
            0,
            |path, out| WatchedRequest { path, watch: true }.encode(out),
            Some(kind),
            decode,
        )
    }

    fn add_watch(&self, path: &str, kind: WatchKind, mode: AddWatchMode) -> Reply<PersistentWatch> {
        let decode: Decoder<PersistentWatch> = |subject, answer, watch| match watch {
            // Servers before 3.9 say that a znode does not exist, and watch it nevertheless.
            Some(watch) if matches!(answer.code, ErrorCode::OK | ErrorCode::NO_NODE) => {
                Ok(PersistentWatch::new(watch))
            }
            _ => Err(subject.error(answer.code)),
        };
        if let Err(error) = path::validate(path) {
            return self.refuse(OpCode::AddWatch, path, error.into(), decode);
        }
        self.call_unchecked(
            OpCode::AddWatch,
            path,
            0,
            |path, out| {
                let kind = mode.number();
                WatchRecord { path, kind }.encode(out);
            },
            Some(kind),
            decode,
        )
    }
}

fn nothing(subject: &Subject, answer: &Answer, _: Option<Subscription>) -> Result<(), Error> {
    answer
        .code
        .into_result()
        .map_err(|code| subject.error(code))
}

fn stat(subject: &Subject, answer: &Answer, _: Option<Subscription>) -> Result<Stat, Error> {
    subject.decode(answer).map(|found: StatResponse| found.stat)
}

fn existing(subject: &Subject, answer: &Answer) -> Result<Option<Stat>, Error> {
    if answer.code == ErrorCode::NO_NODE {
        return Ok(None);
    }
    let found: StatResponse = subject.decode(answer)?;
    Ok(Some(found.stat))
}

/// The data as part of the answer, without a copy.
fn data(subject: &Subject, answer: &Answer) -> Result<(Option<Bytes>, Stat), Error> {
    let found: GetDataResponse<'_> = subject.decode(answer)?;
    let data = found.data.map(|data| answer.body.slice_ref(data));
    Ok((data, found.stat))
}

fn config(subject: &Subject, answer: &Answer) -> Result<EnsembleConfig, Error> {
    let (data, stat) = data(subject, answer)?;
    Ok(EnsembleConfig::parse(&data.unwrap_or_default(), stat))
}

fn children(subject: &Subject, answer: &Answer) -> Result<(Vec<String>, Stat), Error> {
    let found: GetChildren2Response<'_> = subject.decode(answer)?;
    Ok((owned(found.children), found.stat))
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// The watch that came with a request.
fn watched(subscription: Option<Subscription>) -> Result<OneshotWatch, Error> {
    subscription.map(OneshotWatch::new).ok_or(Error::Closed)
}
