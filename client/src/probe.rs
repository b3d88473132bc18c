//! Looking for a server that writes while connected to a read-only one (spec: client behaviour,
//! section 8).

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::connect_string::Server;
use crate::stream::Security;

/// The pause before the first server is asked; it doubles with every further one.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// No answer worth reading is longer.
const LONGEST_ANSWER: u64 = 1024;

/// A server that may write.
pub(crate) struct Found {
    pub(crate) server: Server,
    /// The pause to begin with if it does not write after all.
    pub(crate) pause: Duration,
}

/// Asks one server after the other, in a circle, until one does not say that it only reads.
pub(crate) async fn find_writer(
    mut servers: VecDeque<Server>,
    security: Security,
    mut pause: Duration,
) -> Found {
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        if let Some(server) = servers.pop_front() {
            if let Ok(Ok(true)) = timeout(PATIENCE, may_write(&server, &security)).await {
                return Found { server, pause };
            }
            servers.push_back(server);
        }
    }
}

/// Servers that do not answer this question, for it has to be allowed to them, may well write.
async fn may_write(server: &Server, security: &Security) -> io::Result<bool> {
    let mut stream = security.open(server).await?;
    stream.write_all(b"isro").await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(!answer.is_empty() && answer != b"ro" && answer != b"null")
}
