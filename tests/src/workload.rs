//! Clients of an ensemble that do a bit of everything, and remember what they were answered.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use quorate_client::{Client, CreateMode, Error, ErrorCode, Outcome, Stat, TransactionResult};

use crate::history::{
    Answer, Asked, Call, Conversation, End, Held, Remains, Summary, WriteId, check,
};
use crate::process::eventually;

/// The timeout of the sessions: a server that falls silent is left after two thirds of it.
const SESSION: Duration = Duration::from_secs(6);

/// How long an ensemble that works may take to answer all that was asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// Znodes that are set; few, so that sessions meet in them.
const REGISTERS: usize = 4;

/// Questions that a session asks before it waits for the answers.
const DEPTH: usize = 8;

/// Znodes of a kind that a session keeps before it deletes the oldest.
const KEPT: usize = 20;

/// Sessions that write and read all the time, each on a server of its own to begin with.
///
/// ```no_run
/// use quorate_tests::cluster::{Cluster, Seat};
/// use quorate_tests::ours::Quorate;
/// use quorate_tests::workload::Load;
///
/// let seats = (0..3).map(|_| Seat::voter(Quorate::from_env()));
/// let mut cluster = Cluster::start(seats.collect(), Cluster::settings());
/// let load = Load::start(&cluster.addresses(), 6);
/// cluster.kill(cluster.leader());
/// load.progress(1000);
/// println!("{:?}", load.finish());
/// ```
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    runner: JoinHandle<Result<Summary, Vec<String>>>,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    /// Where everything is that the sessions work on.
    root: String,
    servers: Vec<SocketAddr>,
    began: Instant,
    over: AtomicBool,
    last_id: AtomicU64,
    acknowledged: AtomicUsize,
}

impl Load {
    /// Lets so many sessions work from now on, on servers that are all ours.
    pub fn start(servers: &[SocketAddr], sessions: usize) -> Self {
        Self::run(servers, sessions, true)
    }

    /// As [`Load::start`], on servers of any kind.
    pub fn start_on_any(servers: &[SocketAddr], sessions: usize) -> Self {
        Self::run(servers, sessions, false)
    }

    fn run(servers: &[SocketAddr], sessions: usize, strict: bool) -> Self {
        static LOADS: AtomicUsize = AtomicUsize::new(0);
        let load = LOADS.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            root: format!("/load{load}"),
            servers: servers.to_vec(),
            began: Instant::now(),
            over: AtomicBool::new(false),
            last_id: AtomicU64::new(0),
            acknowledged: AtomicUsize::new(0),
        });
        let runner = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(run(shared, sessions, strict))
            })
        };
        let load = Load { shared, runner };
        load.progress(1);
        load
    }

    /// How many writes have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes have been acknowledged.
    pub fn progress(&self, writes: usize) {
        let goal = self.acknowledged() + writes;
        eventually("writes are acknowledged", PATIENCE, || {
            assert!(!self.runner.is_finished(), "the load has failed");
            (self.acknowledged() >= goal).then_some(())
        });
    }

    /// Lets all sessions come to an end, and checks all that they were answered.
    pub fn finish(self) -> Summary {
        self.shared.over.store(true, Ordering::Relaxed);
        match self.runner.join().expect("the load fails") {
            Ok(summary) => {
                eprintln!("{summary:?}");
                summary
            }
            Err(wrong) => {
                let shown = wrong.iter().take(20).map(String::as_str);
                let shown: Vec<&str> = shown.collect();
                panic!(
                    "no ensemble may answer so, {} faults:\n{}",
                    wrong.len(),
                    shown.join("\n")
                );
            }
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The path of a register, by its number, or of something else.
    fn path(&self, what: impl Display) -> String {
        format!("{}/{what}", self.root)
    }

    fn mark(&self, id: WriteId) -> String {
        self.path(format_args!("marks/{id}"))
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn next_id(&self) -> WriteId {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A new session, on the server of this number if that can be reached.
    async fn connect(&self, number: usize) -> Result<Client, Error> {
        let servers = self.servers.len();
        let addresses = (0..servers).map(|i| self.servers[(number + i) % servers].to_string());
        let addresses: Vec<String> = addresses.collect();
        Client::builder()
            .session_timeout(SESSION)
            .connect_timeout(PATIENCE)
            .shuffle(false)
            .connect(&addresses.join(","))
            .await
    }
}

async fn run(shared: Arc<Shared>, sessions: usize, strict: bool) -> Result<Summary, Vec<String>> {
    let founder = shared.connect(0).await.unwrap();
    prepare(&shared, &founder).await;
    founder.close().await.unwrap();
    let tasks = (0..sessions).map(|number| tokio::spawn(work(Arc::clone(&shared), number)));
    let all = join_all(tasks);
    let mut conversations = Vec::new();
    let mut clients = Vec::new();
    for (number, end) in all.await.into_iter().enumerate() {
        let (client, mut said) = end.unwrap();
        if number % 2 == 0 {
            let end = close(client).await;
            said.last_mut().expect("the last one").end = Some(end);
        } else {
            clients.push(client);
        }
        conversations.append(&mut said);
    }
    let judge = shared.connect(0).await.unwrap();
    let remains = judge
        .retry_idempotent(|| look(&shared, &judge))
        .await
        .expect("what remains can be read");
    for client in clients.into_iter().chain([judge]) {
        close(client).await;
    }
    check(&conversations, &remains, strict)
}

/// Ends a session, unless it has ended by itself.
async fn close(client: Client) -> End {
    let closed = match client.connected().await {
        Ok(()) => client.close().await,
        Err(error) => Err(error),
    };
    match closed {
        Ok(()) => End::Closed,
        Err(Error::SessionExpired { .. } | Error::ConnectionLoss { .. }) => End::Lost,
        Err(error) => panic!("{error}"),
    }
}

async fn prepare(shared: &Shared, client: &Client) {
    let parents = [
        shared.root.clone(),
        shared.path("queue"),
        shared.path("marks"),
    ];
    let registers = (0..REGISTERS).map(|number| shared.path(number));
    for path in parents.into_iter().chain(registers) {
        let created = client.create(&path, "0", CreateMode::Persistent).await;
        created.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn held((data, stat): (impl AsRef<[u8]>, Stat)) -> Held {
    Held {
        id: str::from_utf8(data.as_ref()).unwrap().parse().unwrap(),
        version: stat.version,
        zxid: stat.mzxid,
    }
}

/// Reads what is there, with all that was acknowledged.
async fn look(shared: &Shared, client: &Client) -> Result<Remains, Error> {
    client.sync("/").await?;
    let mut remains = Remains::default();
    for number in 0..REGISTERS {
        let register = client.get_data(&shared.path(number)).await?;
        remains.registers.push(held(register));
    }
    let names = client.get_children(&shared.path("queue")).await?;
    let reads = names
        .iter()
        .map(|name| client.get_data(&shared.path(format_args!("queue/{name}"))));
    let reads: Vec<_> = reads.collect();
    for (name, read) in names.into_iter().zip(join_all(reads).await) {
        let (data, stat) = read?;
        let id = held((data, stat)).id;
        remains.queue.insert(name, (id, stat.czxid));
    }
    for name in client.get_children(&shared.path("marks")).await? {
        let id = name.parse().unwrap();
        if let Some(stat) = client.exists(&shared.mark(id)).await? {
            remains.marks.insert(id, stat.ephemeral_owner);
        }
    }
    Ok(remains)
}

/// Works in one session after another, where one expires, until the load is over.
async fn work(shared: Arc<Shared>, number: usize) -> (Client, Vec<Conversation>) {
    let mut rng = Rng::new();
    let mut said = Vec::new();
    loop {
        let client = shared.connect(number).await.expect("a server is there");
        let mut session = Session::new(Arc::clone(&shared), client);
        while !shared.is_over() && session.conversation.end.is_none() {
            session.ask_some(&mut rng).await;
        }
        let end = session.conversation.end;
        said.push(session.conversation);
        if end.is_none() {
            return (session.client, said);
        }
    }
}

struct Session {
    shared: Arc<Shared>,
    client: Client,
    conversation: Conversation,
    /// The version of each register as it was seen last.
    versions: [i32; REGISTERS],
    /// Names of own sequential znodes.
    pushed: VecDeque<String>,
    /// Own ephemeral znodes.
    marks: VecDeque<WriteId>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

impl Session {
    fn new(shared: Arc<Shared>, client: Client) -> Self {
        let session = client.session().expect("connected").id().0;
        Session {
            shared,
            client,
            conversation: Conversation {
                session,
                ..Conversation::default()
            },
            versions: [0; REGISTERS],
            pushed: VecDeque::new(),
            marks: VecDeque::new(),
        }
    }

    /// Asks a few questions one behind the other and waits for all the answers.
    async fn ask_some(&mut self, rng: &mut Rng) {
        let mut waiting = Vec::new();
        for _ in 0..rng.usize(1..=DEPTH) {
            let asked = self.think(rng);
            let invoked = self.shared.now();
            let answer = ask(&self.shared, &self.client, &asked);
            let shared = Arc::clone(&self.shared);
            waiting.push(async move {
                let answer = answer.await;
                (asked, answer, invoked, shared.now())
            });
        }
        for (asked, answer, invoked, answered) in join_all(waiting).await {
            let answer = answer.unwrap_or_else(|error| self.failed(&asked, &error));
            self.learn(&asked, &answer);
            self.conversation.calls.push(Call {
                asked,
                answer,
                invoked,
                answered,
            });
        }
    }

    /// What to ask next.
    fn think(&mut self, rng: &mut Rng) -> Asked {
        let register = rng.usize(..REGISTERS);
        let id = self.shared.next_id();
        match rng.u32(..12) {
            0 | 1 => Asked::Set(id, register, None),
            2 => Asked::Set(id, register, Some(self.versions[register])),
            3 => Asked::SetBoth(id, [register, (register + 1) % REGISTERS]),
            4 | 5 => match oldest(&mut self.pushed) {
                Some(name) => Asked::Take(id, name, register),
                None => Asked::Push(id),
            },
            6 => match oldest(&mut self.marks) {
                Some(mark) => Asked::Unmark(mark),
                None => Asked::Mark(id),
            },
            7 => match self.marks.back() {
                Some(mark) => Asked::Find(*mark),
                None => Asked::Get(register),
            },
            8 => Asked::SyncGet(register),
            _ => Asked::Get(register),
        }
    }

    /// Takes note of what later questions build on.
    fn learn(&mut self, asked: &Asked, answer: &Answer) {
        match (asked, answer) {
            (Asked::Set(_, register, _), Answer::Set(versions, _)) => {
                self.versions[*register] = versions[0];
            }
            (Asked::Get(register) | Asked::SyncGet(register), Answer::Held(held)) => {
                self.versions[*register] = held.version;
            }
            (Asked::Push(_), Answer::Created(name, _)) => self.pushed.push_back(name.clone()),
            (Asked::Mark(id), Answer::Created(..)) => self.marks.push_back(*id),
            _ => {}
        }
        if asked.is_write() && !matches!(answer, Answer::Refused | Answer::Unknown) {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What an error tells. Only some can come from an ensemble that works as it should.
    fn failed(&mut self, asked: &Asked, error: &Error) -> Answer {
        if error.is_session_over() {
            self.conversation.end = Some(End::Lost);
        }
        let expected = match asked {
            Asked::Set(_, _, Some(_)) => error.code() == Some(ErrorCode::BAD_VERSION),
            // It may be gone by an earlier transaction of unknown outcome.
            Asked::Take(..) | Asked::Unmark(_) => error.code() == Some(ErrorCode::NO_NODE),
            _ => false,
        };
        let lost = error.is_transient() || error.is_session_over();
        assert!(expected || lost, "{asked:?} is answered with {error}");
        match error.outcome() {
            Outcome::DidNotHappen => Answer::Refused,
            Outcome::Unknown => Answer::Unknown,
            Outcome::Happened => panic!("{asked:?}: {error}"),
        }
    }
}

/// Takes the oldest away once there are enough.
fn oldest<T>(kept: &mut VecDeque<T>) -> Option<T> {
    if kept.len() < KEPT {
        return None;
    }
    kept.pop_front()
}

/// Sends a question now; the future is its answer.
fn ask(shared: &Shared, client: &Client, asked: &Asked) -> Answering {
    match asked {
        Asked::Set(id, number, version) => {
            let set = client.set_data(&shared.path(number), &id.to_string(), *version);
            Box::pin(async move { set.await.map(|stat| set_answer(&[stat])) })
        }
        Asked::SetBoth(id, both) => {
            let data = id.to_string();
            let set = both.iter().fold(client.transaction(), |set, number| {
                set.set_data(&shared.path(number), &data, None)
            });
            let set = set.commit();
            Box::pin(async move { set.await.map(|results| set_answer(&stats(&results))) })
        }
        Asked::Push(id) => {
            let mode = CreateMode::PersistentSequential;
            created(client, &shared.path("queue/q-"), &id.to_string(), mode)
        }
        Asked::Take(id, name, number) => {
            let take = client
                .transaction()
                .delete(&shared.path(format_args!("queue/{name}")), None)
                .set_data(&shared.path(number), &id.to_string(), None)
                .commit();
            Box::pin(async move { take.await.map(|results| set_answer(&stats(&results))) })
        }
        Asked::Mark(id) => created(client, &shared.mark(*id), "", CreateMode::Ephemeral),
        Asked::Unmark(id) => {
            let delete = client.delete(&shared.mark(*id), None);
            Box::pin(async move { delete.await.map(|()| Answer::Deleted) })
        }
        Asked::Get(number) => {
            let get = client.get_data(&shared.path(number));
            Box::pin(async move { get.await.map(|read| Answer::Held(held(read))) })
        }
        Asked::SyncGet(number) => {
            let sync = client.sync(&shared.path(number));
            let get = client.get_data(&shared.path(number));
            Box::pin(async move {
                sync.await?;
                get.await.map(|read| Answer::Held(held(read)))
            })
        }
        Asked::Find(id) => {
            let find = client.exists(&shared.mark(*id));
            Box::pin(async move { find.await.map(|stat| Answer::Found(stat.is_some())) })
        }
    }
}

fn created(client: &Client, path: &str, data: &str, mode: CreateMode) -> Answering {
    let create = client.create(path, data, mode);
    Box::pin(async move {
        let created = create.await?;
        let (_, name) = created.path.rsplit_once('/').expect("an absolute path");
        Ok(Answer::Created(name.to_owned(), created.stat.czxid))
    })
}

fn stats(results: &[TransactionResult]) -> Vec<Stat> {
    let stats = results.iter().filter_map(|result| match result {
        TransactionResult::DataSet(stat) => Some(*stat),
        _ => None,
    });
    stats.collect()
}

fn set_answer(stats: &[Stat]) -> Answer {
    let zxids: Vec<i64> = stats.iter().map(|stat| stat.mzxid).collect();
    assert!(zxids.windows(2).all(|pair| pair[0] == pair[1]), "{stats:?}");
    Answer::Set(stats.iter().map(|stat| stat.version).collect(), zxids[0])
}
