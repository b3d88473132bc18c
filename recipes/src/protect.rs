//! Znodes under a name that nobody else uses, so that a create whose reply was lost is found again,
//! and none is left behind by a future that was dropped (spec: recipes, sections 2.2 and 2.5).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_client::{
    Acl, Client, CreateMode, CreateOptions, Error, ErrorCode, Outcome, RetryPolicy, SessionId,
    Stat, State, TransactionResult, path,
};
use tracing::{debug, warn};

use crate::chance::unique;
use crate::layout::Naming;

/// Where a recipe creates its znodes, and what they look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) client: &'a Client,
    pub(crate) path: &'a str,
    pub(crate) naming: Naming,
    pub(crate) data: &'a [u8],
    pub(crate) acl: &'a [Acl<'a>],
}

impl Site<'_> {
    /// A znode that is yet to be created, under a name of its own.
    pub(crate) fn plan(&self) -> Protected {
        self.plan_named(self.naming.prefix(unique(self.client)), self.naming.mode())
    }

    /// A znode that is yet to be created, under a name that nobody else uses.
    pub(crate) fn plan_named(&self, prefix: String, mode: CreateMode) -> Protected {
        Protected {
            client: self.client.clone(),
            parent: self.path.to_owned(),
            prefix,
            mode,
            mark: None,
            existence: Existence::No,
        }
    }

    /// A znode that is yet to be created, under a name that others use as well: its data is what
    /// tells it from theirs.
    pub(crate) fn plan_shared(&self, name: &str) -> Protected {
        let mut planned = self.plan_named(name.to_owned(), CreateMode::Ephemeral);
        planned.mark = Some(self.data.to_vec());
        planned
    }
}

/// An ephemeral znode of this session, which is deleted when the value is dropped.
///
/// The value exists from before the request to create the znode goes out. Wherever a future that
/// holds it is dropped, the znode is deleted in the background: by its path once that is known, and
/// before by searching for its name.
#[derive(Debug)]
pub(crate) struct Protected {
    client: Client,
    parent: String,
    /// The name, up to the server's number if it gets one.
    prefix: String,
    mode: CreateMode,
    /// The data, where the name is not unique.
    mark: Option<Vec<u8>>,
    existence: Existence,
}

#[derive(Debug)]
enum Existence {
    /// There surely is no such znode.
    No,
    /// A create is under way, or ended without an answer.
    Maybe,
    /// It was created at this path, by this transaction.
    At(String, i64),
}

/// What became of a create without an answer.
enum Search {
    Found(String, Stat),
    Absent,
    /// A znode has the name and belongs to somebody else.
    Taken,
}

impl Protected {
    /// Creates a znode, and its parents as containers where they are missing. Answers the number of
    /// the transaction that created it as well.
    ///
    /// Lost connections are survived for as long as the session lives.
    pub(crate) async fn create(site: Site<'_>) -> Result<(Self, i64), Error> {
        loop {
            // A name that is taken although it is unique is left to whoever has it.
            if let Some(created) = site.plan().create_at(site).await? {
                return Ok(created);
            }
        }
    }

    /// Creates a planned znode; `None` if somebody else has the name.
    pub(crate) async fn create_at(mut self, site: Site<'_>) -> Result<Option<(Self, i64)>, Error> {
        let node = &mut self;
        let options = CreateOptions::new(node.mode).acl(site.acl);
        loop {
            let pattern = node.pattern();
            node.expect_creation()?;
            let created = patient()
                .run(|| site.client.create(&pattern, site.data, options))
                .await;
            let error = match created {
                Ok(created) => {
                    let czxid = created.stat.czxid;
                    node.existence = Existence::At(created.path, czxid);
                    return Ok(Some((self, czxid)));
                }
                Err(error) => error,
            };
            if error.outcome() == Outcome::DidNotHappen {
                node.existence = Existence::No;
                match error {
                    Error::NoNode { .. } => {
                        create_parents(site.client, site.path, site.acl).await?;
                    }
                    Error::NodeExists { .. } => return Ok(None),
                    error => return Err(error),
                }
                continue;
            }
            debug!(path = %pattern, %error, "looking for a znode whose creation was not answered");
            match node.search().await? {
                Search::Found(path, stat) => {
                    node.existence = Existence::At(path, stat.czxid);
                    return Ok(Some((self, stat.czxid)));
                }
                Search::Absent => {}
                Search::Taken => return Ok(None),
            }
        }
    }

    /// Creates planned znodes all together, provided that the znode `fence` is there. `None` if it
    /// is not, or if what was created has been tampered with meanwhile.
    pub(crate) async fn create_all(
        site: Site<'_>,
        mut nodes: Vec<Self>,
        fence: &str,
    ) -> Result<Option<Vec<Self>>, Error> {
        loop {
            let mut transaction = site.client.transaction().check(fence, None);
            for node in &mut nodes {
                let options = CreateOptions::new(node.mode).acl(site.acl);
                transaction = transaction.create(&node.pattern(), site.data, options);
                node.expect_creation()?;
            }
            let error = match patient().run(|| transaction.clone().commit()).await {
                Ok(results) => {
                    for (node, result) in nodes.iter_mut().zip(results.into_iter().skip(1)) {
                        if let TransactionResult::Created { path, stat } = result {
                            let czxid = stat.map_or(0, |stat| stat.czxid);
                            node.existence = Existence::At(path, czxid);
                        }
                    }
                    return Ok(Some(nodes));
                }
                Err(error) => error,
            };
            if error.outcome() == Outcome::DidNotHappen {
                nodes
                    .iter_mut()
                    .for_each(|node| node.existence = Existence::No);
                match error {
                    Error::Transaction { index, source }
                        if matches!(*source, Error::NoNode { .. }) =>
                    {
                        if index == 0 {
                            return Ok(None);
                        }
                        create_parents(site.client, site.path, site.acl).await?;
                    }
                    error => return Err(error),
                }
                continue;
            }
            debug!(path = site.path, %error, "looking for znodes whose creation was not answered");
            let mut found = 0;
            for node in &mut nodes {
                if let Search::Found(path, stat) = node.search().await? {
                    node.existence = Existence::At(path, stat.czxid);
                    found += 1;
                }
            }
            match found {
                0 => {}
                all if all == nodes.len() => return Ok(Some(nodes)),
                _ => return Ok(None),
            }
        }
    }

    /// The path up to the server's number.
    fn pattern(&self) -> String {
        join(&self.parent, &self.prefix)
    }

    /// From here on there may be a znode to delete.
    fn expect_creation(&mut self) -> Result<(), Error> {
        expect_writes(&self.client, &self.pattern())?;
        self.existence = Existence::Maybe;
        Ok(())
    }

    /// Where the znode is.
    pub(crate) fn path(&self) -> &str {
        match &self.existence {
            Existence::At(path, _) => path,
            // Only values whose znode was created are handed out.
            Existence::No | Existence::Maybe => &self.parent,
        }
    }

    /// The name of the znode.
    pub(crate) fn name(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    async fn search(&self) -> Result<Search, Error> {
        if let Some(mark) = &self.mark {
            return search_marked(&self.client, self.pattern(), mark).await;
        }
        let names = named(&self.client, &self.parent, &self.prefix).await?;
        let Some(name) = names.into_iter().next() else {
            return Ok(Search::Absent);
        };
        let path = join(&self.parent, &name);
        let found = patient().run(|| self.client.exists(&path)).await?;
        Ok(match found {
            None => Search::Absent,
            Some(stat) if is_own(&self.client, &stat) => Search::Found(path, stat),
            Some(_) => Search::Taken,
        })
    }

    /// Deletes the znode, and `other` with it if that exists, and waits until it is gone. Answers
    /// whether it had been there.
    ///
    /// Dropping the future leaves the rest to the background.
    pub(crate) async fn delete_with(mut self, other: &str) -> Result<bool, Error> {
        let path = self.path().to_owned();
        let unanswered = Unanswered::default();
        let both = || {
            let transaction = self.client.transaction();
            let reply = transaction.delete(&path, None).delete(other, None).commit();
            unanswered.note(reply)
        };
        let there = match patient().run_idempotent(both).await {
            Ok(_) => true,
            Err(Error::Transaction { index: 0, source })
                if matches!(*source, Error::NoNode { .. }) =>
            {
                unanswered.any()
            }
            // The other one is gone already, or is not to be deleted.
            Err(Error::Transaction { .. }) => return self.delete().await,
            Err(error) => return Err(error),
        };
        self.existence = Existence::No;
        Ok(there)
    }

    /// Deletes the znode and waits until it is gone. Answers whether it had been there.
    ///
    /// Dropping the future leaves the rest to the background.
    pub(crate) async fn delete(mut self) -> Result<bool, Error> {
        let path = self.path().to_owned();
        let deleted = match (&self.mark, &self.existence) {
            (Some(_), Existence::At(_, czxid)) => delete_created(&self.client, &path, *czxid).await,
            _ => {
                let unanswered = Unanswered::default();
                let delete = || unanswered.note(self.client.delete(&path, None));
                match patient().run_idempotent(delete).await {
                    Ok(()) => Ok(true),
                    // Nobody else deletes it, so an earlier attempt did and its reply was lost.
                    Err(Error::NoNode { .. }) => Ok(unanswered.any()),
                    Err(error) => Err(error),
                }
            }
        };
        self.existence = Existence::No;
        deleted
    }
}

/// Was there an attempt that may have taken effect, although its reply was lost?
#[derive(Debug, Default)]
struct Unanswered(AtomicBool);

impl Unanswered {
    async fn note<T>(&self, attempt: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        attempt.await.inspect_err(|error| {
            if error.outcome() != Outcome::DidNotHappen {
                self.0.store(true, Ordering::Relaxed);
            }
        })
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        let existence = std::mem::replace(&mut self.existence, Existence::No);
        let (client, parent) = (self.client.clone(), self.parent.clone());
        let prefix = std::mem::take(&mut self.prefix);
        let path = join(&parent, &prefix);
        match (existence, self.mark.take()) {
            (Existence::No, _) => {}
            (Existence::At(path, _), None) => self.client.delete_in_background(path),
            (Existence::At(path, czxid), Some(_)) => self.client.spawn(async move {
                delete_found(&client, &path, Ok(Some(czxid))).await;
            }),
            (Existence::Maybe, Some(mark)) => self.client.spawn(async move {
                let found = search_marked(&client, path.clone(), &mark).await;
                let own = found.map(|found| match found {
                    Search::Found(_, stat) => Some(stat.czxid),
                    Search::Absent | Search::Taken => None,
                });
                delete_found(&client, &path, own).await;
            }),
            (Existence::Maybe, None) => self.client.spawn(async move {
                match named(&client, &parent, &prefix).await {
                    Ok(names) => names
                        .iter()
                        .for_each(|name| client.delete_in_background(join(&parent, name))),
                    Err(error) => not_deleted(&path, &error),
                }
            }),
        }
    }
}

/// Deletes a znode that was found to be this process's own, by the transaction that created it.
pub(crate) async fn delete_found(client: &Client, path: &str, found: Result<Option<i64>, Error>) {
    let deleted = async {
        match found? {
            Some(czxid) => delete_created(client, path, czxid).await.map(drop),
            None => Ok(()),
        }
    };
    if let Err(error) = deleted.await {
        not_deleted(path, &error);
    }
}

/// Deletes the znode at `path`, and none that others create there once it is gone, whatever replies
/// are lost. Answers whether there was one.
pub(crate) async fn delete_once(client: &Client, path: &str) -> Result<bool, Error> {
    delete_first(client, path, OnceLock::new()).await
}

/// Deletes the znode that the transaction `czxid` created, and none that others have created at the
/// same path since. Answers whether it had been there.
async fn delete_created(client: &Client, path: &str, czxid: i64) -> Result<bool, Error> {
    delete_first(client, path, OnceLock::from(czxid)).await
}

/// Deletes the znode that the transaction `first` created, by default the one that is found.
async fn delete_first(client: &Client, path: &str, first: OnceLock<i64>) -> Result<bool, Error> {
    let unanswered = Unanswered::default();
    let delete = || async {
        loop {
            // Each time anew: an attempt whose reply was lost may have made room for somebody else's.
            let (synced, found) = (client.sync(path), client.exists(path));
            synced.await?;
            let found = found.await?;
            let Some(stat) = found.filter(|stat| stat.czxid == *first.get_or_init(|| stat.czxid))
            else {
                return Ok(false);
            };
            match unanswered.note(client.delete(path, stat.version)).await {
                Ok(()) => return Ok(true),
                Err(Error::NoNode { .. }) => return Ok(false),
                // Its data was changed meanwhile: it is looked at again.
                Err(Error::BadVersion { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    };
    let deleted = patient().run_idempotent(delete).await?;
    Ok(deleted || unanswered.any())
}

fn not_deleted(path: &str, error: &Error) {
    // The znode goes with the session.
    if !error.is_session_over() {
        warn!(%path, %error, "cannot delete a znode that nobody needs any more");
    }
}

/// Looks for a znode of this session that is told by its data.
async fn search_marked(client: &Client, path: String, mark: &[u8]) -> Result<Search, Error> {
    let found = patient()
        .run(|| {
            let (synced, found) = (client.sync(&path), client.get_data(&path));
            async {
                synced.await?;
                found.await
            }
        })
        .await;
    match found {
        Ok((data, stat)) if data == mark && is_own(client, &stat) => Ok(Search::Found(path, stat)),
        Ok(_) => Ok(Search::Taken),
        Err(Error::NoNode { .. }) => Ok(Search::Absent),
        Err(error) => Err(error),
    }
}

/// The children of `parent` whose names begin with `prefix`, as of now: what a lost request has
/// done may not have come yet to the server that answers, unless it is told to catch up first.
async fn named(client: &Client, parent: &str, prefix: &str) -> Result<Vec<String>, Error> {
    let listed = patient()
        .run(|| {
            let (synced, listed) = (client.sync(parent), client.get_children(parent));
            async {
                synced.await?;
                listed.await
            }
        })
        .await;
    match listed {
        Ok(mut names) => {
            names.retain(|name| name.starts_with(prefix));
            Ok(names)
        }
        Err(Error::NoNode { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Creates `path`, and what is missing above it, as containers: the servers reap them when they are
/// not used any more.
pub(crate) async fn create_parents(
    client: &Client,
    path: &str,
    acl: &[Acl<'_>],
) -> Result<(), Error> {
    let mut missing = vec![path];
    while let Some(&path) = missing.last() {
        match create_container(client, path, acl).await {
            Ok(()) | Err(Error::NodeExists { .. }) => {
                missing.pop();
            }
            Err(error @ Error::NoNode { .. }) => match path::parent(path) {
                Some(parent) if parent != "/" => missing.push(parent),
                // Above it is only the chroot, which is not this client's to create.
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn create_container(client: &Client, path: &str, acl: &[Acl<'_>]) -> Result<(), Error> {
    let create = async |mode| {
        let options = CreateOptions::new(mode).acl(acl);
        let policy = patient();
        let created = policy.run_idempotent(|| client.create(path, "", options));
        created.await.map(drop)
    };
    match create(CreateMode::Container).await {
        // The server does not have containers.
        Err(Error::Server {
            code: ErrorCode::UNIMPLEMENTED,
            ..
        }) => create(CreateMode::Persistent).await,
        outcome => outcome,
    }
}

/// Fails while the server that answers only reads: nothing is begun that waits for another one.
pub(crate) fn expect_writes(client: &Client, path: &str) -> Result<(), Error> {
    match client.state() {
        State::ConnectedReadOnly => Err(Error::ReadOnly { path: path.into() }),
        _ => Ok(()),
    }
}

/// Does a znode belong to this very session?
pub(crate) fn is_own(client: &Client, stat: &Stat) -> bool {
    let owner = SessionId(stat.ephemeral_owner);
    client
        .session()
        .is_some_and(|session| session.id() == owner)
}

/// For as long as the session lives: requests wait for a connection by themselves, so this only
/// repeats those that were under way when it was lost.
pub(crate) fn patient() -> RetryPolicy {
    RetryPolicy::default().give_up_after(None)
}

/// The path of a child. What is no path makes none, so that it is refused and named.
pub(crate) fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        "/" => format!("/{name}"),
        parent => format!("{parent}/{name}"),
    }
}
