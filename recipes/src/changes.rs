//! A znode or its children as a stream of what is current, which misses no last change (spec:
//! recipes, section 6.7).

use std::collections::BTreeSet;

use async_stream::try_stream;
use bytes::Bytes;
use futures::Stream;
use quorate_client::{Client, Error as ClientError, OneshotWatch, Stat};

use crate::error::Error;
use crate::protect::patient;

/// A znode, if it exists.
pub(crate) type Found = Option<(Bytes, Stat)>;

/// What a znode is now, and the watch that tells of the next change.
pub(crate) async fn look(
    client: &Client,
    path: &str,
) -> Result<(Found, OneshotWatch), ClientError> {
    loop {
        match patient().run(|| client.get_data_watched(path)).await {
            Ok((data, stat, watch)) => return Ok((Some((data, stat)), watch)),
            Err(ClientError::NoNode { .. }) => {}
            Err(error) => return Err(error),
        }
        let (stat, watch) = patient().run(|| client.exists_watched(path)).await?;
        if stat.is_none() {
            return Ok((None, watch));
        }
    }
}

/// What a znode is now, after the server that answers has caught up with the leader.
pub(crate) async fn look_synced(client: &Client, path: &str) -> Result<Found, ClientError> {
    let look = || {
        let (synced, found) = (client.sync(path), client.get_data(path));
        async {
            synced.await?;
            found.await
        }
    };
    match patient().run(look).await {
        Ok(found) => Ok(Some(found)),
        Err(ClientError::NoNode { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a znode is now and after each change. Ends after an error.
pub(crate) fn of_node(
    client: Client,
    path: String,
) -> impl Stream<Item = Result<Found, Error>> + Send + Unpin {
    Box::pin(try_stream! {
        let mut known = None;
        loop {
            let (found, watch) = look(&client, &path).await?;
            // Whoever deletes and creates a znode may leave it with the version that it had.
            let seen = found.as_ref().map(|(_, stat)| (stat.czxid, stat.mzxid));
            if known != Some(seen) {
                known = Some(seen);
                yield found;
            }
            watch.await?;
        }
    })
}

/// The names of the children now and after each change; none while the znode does not exist. Ends
/// after an error.
pub(crate) fn of_children(
    client: Client,
    path: String,
) -> impl Stream<Item = Result<BTreeSet<String>, Error>> + Send + Unpin {
    Box::pin(try_stream! {
        let mut known = None;
        loop {
            let (names, watch) = children(&client, &path).await?;
            let names = BTreeSet::from_iter(names);
            if known.as_ref() != Some(&names) {
                known = Some(names.clone());
                yield names;
            }
            watch.await?;
        }
    })
}

/// The children of a znode, none if it does not exist, and the watch that tells of the next change.
pub(crate) async fn children(
    client: &Client,
    path: &str,
) -> Result<(Vec<String>, OneshotWatch), ClientError> {
    loop {
        match patient().run(|| client.get_children_watched(path)).await {
            Ok((names, _, watch)) => return Ok((names, watch)),
            Err(ClientError::NoNode { .. }) => {}
            Err(error) => return Err(error),
        }
        let (stat, watch) = patient().run(|| client.exists_watched(path)).await?;
        if stat.is_none() {
            return Ok((Vec::new(), watch));
        }
    }
}
