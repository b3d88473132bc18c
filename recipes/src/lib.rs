//! Coordination recipes on an async ZooKeeper client, whose holders know when they have lost what they
//! hold.
//!
//! A recipe is a small type over a [`Client`] and a path: settings that can be cloned and shared. What
//! it hands out is a guard, most often a [`Guard`], which carries a [fencing
//! token](Guard::fencing_token), [resolves a future](Guard::lost) when it is lost,
//! [writes](Guard::transaction) only while it is not, and gives back what it guards when it is dropped.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use quorate_recipes::{Client, Lock};
//!
//! let client = Client::connect("localhost:2181").await?;
//! let guard = Lock::new(&client, "/locks/report").acquire().await?;
//! println!("writing the report, as grant {}", guard.fencing_token());
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | Recipe | What it is | Curator | kazoo |
//! |---|---|---|---|
//! | [`Lock`] | one holder, in order of arrival | `InterProcessMutex` | `Lock` |
//! | [`RwLock`] | many readers or one writer, in order | `InterProcessReadWriteLock` | `ReadLock`, `WriteLock` |
//! | [`Semaphore`] | so many permits, several at once | `InterProcessSemaphoreV2` | `Semaphore` |
//! | [`MultiLock`] | several locks, all or none | `InterProcessMultiLock` | |
//! | [`ReentrantLock`] | a lock that its owner can take again | `InterProcessMutex` | |
//! | [`SimpleLock`] | one znode, whoever is quickest | | |
//! | [`Lease`] | one holder until a time by the clock | | `NonBlockingLease` |
//! | [`Barrier`] | everybody waits until it opens | `DistributedBarrier` | `Barrier` |
//! | [`DoubleBarrier`] | so many enter and leave together | `DistributedDoubleBarrier` | `DoubleBarrier` |
//! | [`Election`] | one leader, observers, candidacies in the background | `LeaderLatch`, `LeaderSelector` | `Election` |
//! | [`Group`] | who is there, and what each says | `GroupMember` | `Party`, `ShallowParty` |
//! | [`PersistentNode`] | a znode that is kept where it should be | `PersistentNode` | |
//! | [`NameService`] | services, and one of their instances | `ServiceDiscovery` | |
//! | [`Config`], [`ConfigTree`] | values that many follow | | `DataWatch` |
//! | [`Cache`] | a copy of a subtree | `CuratorCache` | `TreeCache` |
//! | [`SharedValue`], [`Counter`] | values and numbers that many change | `SharedValue`, `SharedCount`, `DistributedAtomicLong` | `Counter` |
//! | [`IdGenerator`] | numbers that are given out once | `CachedAtomicLong` | |
//! | [`Queue`], [`PriorityQueue`], [`DelayQueue`] | items that one consumer takes | `DistributedQueue` and its kin | `LockingQueue` |
//! | [`Partitioner`] | things divided among members | | `SetPartitioner` |
//! | [`coordination`] | a master that assigns tasks to workers | | |
//!
//! [`comparison`] has ten tasks in three languages.
//!
//! Recipes use the znodes of Curator or, where asked, of kazoo ([`Layout`]), so that programs in other
//! languages take part. The partitioner and [`coordination`] have znodes of their own.
//!
//! # Connections and sessions
//!
//! Losses of the connection are survived by everything for as long as the session lives: who waits
//! keeps the place, who holds is [suspect](HoldState::Suspect) meanwhile, streams go on with what is
//! current. When the session has expired, waits end with [`client::Error::SessionExpired`], guards are
//! [lost](HoldState::Lost) by then, and streams yield the error and end. A new [`Client`] is needed
//! then.
//!
//! # Cancellation
//!
//! Every future can be dropped at any time. Where it says *cancel safe*, nothing is left behind on the
//! servers; where it says that dropping *gives up the wait only*, what was asked may still happen.
//!
//! # Nothing twice
//!
//! Writes that must not happen twice, such as adding to a [`Counter`], putting into a [`Queue`],
//! setting a [`Config`] or closing a [`Barrier`], are sent together with a receipt: a znode of the
//! session below `/quorate/receipts`, as the client's handle sees that path, so that programs with a
//! chroot need it there.
//!
//! The znode is created when it is missing. Where the ACL of the root does not let programs do that,
//! an operator should, with permission for them to create and to delete children; without, these
//! writes fail with [`client::Error::NoAuth`], which names the path. Like whatever holds something,
//! they fail with [`client::Error::ReadOnly`] while the client is connected to a server that only
//! reads.
//!
//! The whole client is here as [`client`].

// The programs of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod barrier;
mod cache;
mod chance;
mod changes;
#[doc = include_str!("comparison.md")]
pub mod comparison {}
mod config;
pub mod coordination;
mod counter;
mod double_barrier;
mod election;
mod error;
mod group;
mod guard;
mod hold;
mod items;
mod layout;
mod lease;
mod lock;
mod name_service;
mod partitioner;
mod payload;
mod persistent_node;
mod protect;
mod queue;
mod receipt;
mod reentrant;
mod rwlock;
mod semaphore;
mod settings;
mod simple_lock;

pub use barrier::Barrier;
pub use cache::{Cache, CacheEvent, CachedNode};
pub use config::{Config, ConfigTree, Versioned};
pub use counter::{Counter, Encoding, IdGenerator, SharedValue};
pub use double_barrier::{DoubleBarrier, Inside};
pub use election::{Candidacy, Election, Leadership};
pub use error::Error;
pub use group::{Group, GroupEvent, Membership};
pub use guard::{FencedTransaction, FencingToken, Guard, MultiGuard};
pub use hold::{HoldState, LostReason};
pub use items::{DelayQueue, Item, Items, PriorityQueue, Queue};
pub use layout::Layout;
pub use lease::{Lease, LeaseTerm};
pub use lock::{Lock, MultiLock};
pub use name_service::{
    Instance, InstancePayload, NameService, Pick, Resolver, ServiceType, UriPart, UriSpec,
};
pub use partitioner::{Partitioner, Share};
pub use payload::{Json, Payload};
pub use persistent_node::{NodeState, PersistentNode};
pub use queue::Contender;
pub use quorate_client as client;
pub use quorate_client::{
    Acl, Client, ClientBuilder, CreateMode, CreateOptions, Outcome, Perms, SessionId, State,
};
pub use reentrant::{ReentrantGuard, ReentrantLock};
pub use rwlock::{Access, RwLock, WriteGuard};
pub use semaphore::Semaphore;
pub use simple_lock::SimpleLock;
