//! Several operations in one request: transactions of writes, and reads side by side.

use bytes::Bytes;
use quorate_proto::jute::{DecodeError, Encode};
use quorate_proto::{
    ErrorCode, MultiHeader, MultiResponse, MultiResult, OpCode, SetDataRequest, Stat,
    VersionRequest, WatchedRequest, path,
};

use crate::client::{ANY_VERSION, Client};
use crate::create::{CreateOptions, Data};
use crate::error::Error;
use crate::request::{self, Answer, Decoder, Reply, Subject};

/// Writes that happen all together or not at all, made by [`Client::transaction`].
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use quorate_client::{CreateMode, Error};
///
/// let outcome = client
///     .transaction()
///     .check("/jobs", 4)
///     .create("/jobs/next", "payload", CreateMode::Persistent)
///     .set_data("/jobs/count", "5", None)
///     .commit()
///     .await;
/// match outcome {
///     Ok(results) => println!("{results:?}"),
///     Err(Error::Transaction { index, source }) => println!("operation {index}: {source}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `commit`"]
pub struct Transaction {
    batch: Batch,
}

/// What one operation of a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionResult {
    /// The znode was created.
    Created {
        /// Its path, with the counter that the server appended in sequential modes.
        path: String,
        /// Its stat, which servers before 3.9 do not tell for every mode.
        stat: Option<Stat>,
    },
    /// The znode was deleted.
    Deleted,
    /// The data was set; the znode's new stat.
    DataSet(Stat),
    /// The version was as expected.
    Checked,
}

impl Transaction {
    pub(crate) fn new(client: Client) -> Self {
        Transaction {
            batch: Batch::new(client, OpCode::Multi),
        }
    }

    /// Creates a znode; see [`Client::create`].
    pub fn create<'a>(
        mut self,
        path: &str,
        data: impl Into<Data<'a>>,
        options: impl Into<CreateOptions<'a>>,
    ) -> Self {
        let (data, options) = (data.into(), options.into());
        let checked = if options.mode().is_sequential() {
            path::validate_sequential(path)
        } else {
            path::validate(path)
        };
        let operation = checked.map_err(Error::from).and_then(|()| {
            options
                .operation()
                .map_err(|reason| Error::InvalidArgument {
                    path: path.to_owned(),
                    reason,
                })
        });
        match operation {
            Ok(operation) => self.batch.push(operation, path, |path, out| {
                options.encode(path, data, out);
            }),
            Err(error) => self.batch.refuse(error),
        }
        self
    }

    /// Deletes a znode; see [`Client::delete`].
    pub fn delete(mut self, path: &str, version: impl Into<Option<i32>>) -> Self {
        let version = version.into().unwrap_or(ANY_VERSION);
        self.batch.push_valid(OpCode::Delete, path, |path, out| {
            VersionRequest { path, version }.encode(out);
        });
        self
    }

    /// Replaces the data of a znode; see [`Client::set_data`].
    pub fn set_data<'a>(
        mut self,
        path: &str,
        data: impl Into<Data<'a>>,
        version: impl Into<Option<i32>>,
    ) -> Self {
        let version = version.into().unwrap_or(ANY_VERSION);
        let data = data.into().as_slice();
        self.batch.push_valid(OpCode::SetData, path, |path, out| {
            SetDataRequest {
                path,
                data,
                version,
            }
            .encode(out);
        });
        self
    }

    /// Lets the transaction fail unless the znode exists and, if one is given, has the version.
    pub fn check(mut self, path: &str, version: impl Into<Option<i32>>) -> Self {
        let version = version.into().unwrap_or(ANY_VERSION);
        self.batch.push_valid(OpCode::Check, path, |path, out| {
            VersionRequest { path, version }.encode(out);
        });
        self
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.batch.operations.len()
    }

    /// Is there nothing to do yet?
    pub fn is_empty(&self) -> bool {
        self.batch.operations.is_empty()
    }

    /// Sends the transaction. It is ordered at this call, not when the future is first polled, and
    /// dropping the future gives up the wait only.
    ///
    /// Answers one result for each operation, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Transaction`] says which operation failed and why; then none was done.
    pub fn commit(
        self,
    ) -> impl Future<Output = Result<Vec<TransactionResult>, Error>> + Send + use<> {
        let Sent {
            reply,
            subject,
            operations,
        } = self.batch.send();
        async move {
            let answer = reply.await?;
            let response: MultiResponse<'_> = subject.decode(&answer)?;
            // The operation that failed has a code of its own; those before it say success and
            // those behind it that they were not tried.
            for (index, (result, (operation, path))) in
                response.results.iter().zip(&operations).enumerate()
            {
                if let MultiResult::Error(code) = result
                    && *code != ErrorCode::OK
                {
                    let session = subject.status.session_id();
                    let source = Error::from_code(*code, *operation, path, session);
                    let source = Box::new(source);
                    return Err(Error::Transaction { index, source });
                }
            }
            response
                .results
                .into_iter()
                .map(|result| written(result, &subject))
                .collect()
        }
    }
}

fn written(result: MultiResult<'_>, subject: &Subject) -> Result<TransactionResult, Error> {
    Ok(match result {
        MultiResult::Create(created) => TransactionResult::Created {
            path: subject.chroot.show(created.path),
            stat: None,
        },
        MultiResult::Create2(created) => TransactionResult::Created {
            path: subject.chroot.show(created.path),
            stat: Some(created.stat),
        },
        MultiResult::Delete => TransactionResult::Deleted,
        MultiResult::SetData(set) => TransactionResult::DataSet(set.stat),
        MultiResult::Check => TransactionResult::Checked,
        MultiResult::Error(code) => return Err(subject.error(code)),
        MultiResult::GetData(_) => return Err(misplaced(OpCode::GetData, subject)),
        MultiResult::GetChildren(_) => return Err(misplaced(OpCode::GetChildren, subject)),
    })
}

/// The server answered with the result of an operation that was not asked for.
fn misplaced(result: OpCode, subject: &Subject) -> Error {
    subject.invalid_reply(DecodeError::Unknown {
        what: "multi result",
        value: result.number(),
    })
}

/// Reads that travel together, made by [`Client::multi_read`]. Each succeeds or fails by itself.
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use quorate_client::ReadResult;
///
/// let results = client.multi_read().get_data("/a").get_children("/b").send().await?;
/// if let Some(Ok(ReadResult::Data { data, stat })) = results.first() {
///     println!("{data:?} in version {}", stat.version);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `send`"]
pub struct MultiRead {
    batch: Batch,
}

/// What one operation of a multi-read found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadResult {
    /// Data and stat of a znode.
    Data {
        /// The data; `None` for null.
        data: Option<Bytes>,
        /// The stat.
        stat: Stat,
    },
    /// The names of the children, in no order.
    Children(Vec<String>),
}

impl MultiRead {
    pub(crate) fn new(client: Client) -> Self {
        MultiRead {
            batch: Batch::new(client, OpCode::MultiRead),
        }
    }

    /// Reads the data of a znode.
    pub fn get_data(mut self, path: &str) -> Self {
        self.batch.push_read(OpCode::GetData, path);
        self
    }

    /// Lists the children of a znode.
    pub fn get_children(mut self, path: &str) -> Self {
        self.batch.push_read(OpCode::GetChildren, path);
        self
    }

    /// Sends the reads. They are ordered at this call, not when the future is first polled.
    ///
    /// Answers one result for each operation, in order.
    ///
    /// # Errors
    ///
    /// If there is no answer at all; the error of a single read is in its result.
    pub fn send(
        self,
    ) -> impl Future<Output = Result<Vec<Result<ReadResult, Error>>, Error>> + Send + use<> {
        let Sent {
            reply,
            subject,
            operations,
        } = self.batch.send();
        async move {
            let answer = reply.await?;
            let response: MultiResponse<'_> = subject.decode(&answer)?;
            let results = response.results.into_iter().zip(&operations);
            results
                .map(|(result, (operation, path))| match result {
                    MultiResult::GetData(found) => Ok(Ok(ReadResult::Data {
                        data: found.data.map(|data| answer.body.slice_ref(data)),
                        stat: found.stat,
                    })),
                    MultiResult::GetChildren(found) => Ok(Ok(ReadResult::Children(
                        found.children.into_iter().map(str::to_owned).collect(),
                    ))),
                    MultiResult::Error(code) => {
                        let session = subject.status.session_id();
                        Ok(Err(Error::from_code(code, *operation, path, session)))
                    }
                    _ => Err(misplaced(OpCode::MultiRead, &subject)),
                })
                .collect()
        }
    }
}

/// Operations being gathered into one request.
#[derive(Debug, Clone)]
struct Batch {
    client: Client,
    kind: OpCode,
    body: Vec<u8>,
    operations: Vec<(OpCode, String)>,
    refused: Option<Error>,
}

impl Batch {
    fn new(client: Client, kind: OpCode) -> Self {
        Batch {
            client,
            kind,
            body: Vec::new(),
            operations: Vec::new(),
            refused: None,
        }
    }

    /// Adds an operation on a path that has been checked.
    fn push(&mut self, operation: OpCode, path: &str, body: impl FnOnce(&str, &mut Vec<u8>)) {
        MultiHeader::request(operation).encode(&mut self.body);
        body(&self.client.server_path(operation, path), &mut self.body);
        self.operations.push((operation, path.to_owned()));
    }

    fn push_valid(&mut self, operation: OpCode, path: &str, body: impl FnOnce(&str, &mut Vec<u8>)) {
        match path::validate(path) {
            Ok(()) => self.push(operation, path, body),
            Err(error) => self.refuse(error.into()),
        }
    }

    fn push_read(&mut self, operation: OpCode, path: &str) {
        self.push_valid(operation, path, |path, out| {
            WatchedRequest { path, watch: false }.encode(out);
        });
    }

    /// The first error is the one that counts.
    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }

    fn send(self) -> Sent {
        let subject = self.client.subject(self.kind, "");
        let decode: Decoder<Answer> = |_, answer, _| Ok(answer.clone());
        let reply = match self.refused {
            Some(error) => Reply::refused(error, subject.clone(), decode),
            None => {
                let frame = request::encode(self.kind, self.body.len() + 32, |out| {
                    out.extend_from_slice(&self.body);
                    MultiHeader::END.encode(out);
                });
                self.client.enqueue(subject.clone(), frame, None, decode)
            }
        };
        Sent {
            reply,
            subject,
            operations: self.operations,
        }
    }
}

/// A batch that was queued.
struct Sent {
    reply: Reply<Answer>,
    subject: Subject,
    operations: Vec<(OpCode, String)>,
}
