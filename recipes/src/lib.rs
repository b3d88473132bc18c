//! Coordination recipes on an async ZooKeeper client: locks that know when they are lost.
//!
//! A recipe is a small type over a [`Client`] and a path. What it hands out is a [`Guard`], which
//! carries a [fencing token](Guard::fencing_token), [resolves a future](Guard::lost) when it is
//! lost, [writes](Guard::transaction) only while it is not, and gives back what it guards when it
//! is dropped. Every future can be dropped at any time and leaves nothing behind on the servers.
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
//! Recipes use the znodes of Curator or, where asked, of kazoo ([`Layout`]), so that programs in
//! other languages take part.
//!
//! The whole client is here as [`client`].

// The programs of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod barrier;
mod cache;
mod changes;
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
