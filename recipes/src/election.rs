//! Leader election (spec: recipes, sections 3.7 and 6.5).

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use futures::Stream;
use quorate_client::{Client, Error as ClientError};
use tokio::sync::watch;
use tracing::{info, instrument};

use crate::error::Error;
use crate::guard::Guard;
use crate::layout::Layout;
use crate::protect::patient;
use crate::queue::{Contender, Queue, within};
use crate::settings::{Settings, setters};

/// The choice of one leader among candidates, in the order in which they stand.
///
/// A candidate takes part in one of three ways: by [`campaign`](Election::campaign), which waits for
/// the leadership and hands out a guard; by [`lead`](Election::lead), which also runs a piece of
/// work that ends when the leadership does; or by [`stand`](Election::stand), a candidacy in the
/// background. Anybody can [`observe`](Election::observe) who leads.
///
/// With [`Layout::Curator`], the default, it takes part in the elections of Curator's `LeaderLatch`,
/// or after [`like_selector`](Election::like_selector) of its `LeaderSelector`, on the same path;
/// with [`Layout::Kazoo`] of kazoo's `Election`.
///
/// What happens when the connection is lost, and when a future is dropped, is as for
/// [`Lock`](crate::Lock). Nobody else leads before a [`Leadership`] is lost, by its own account.
///
/// ```no_run
/// # async fn govern() {}
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::Election;
///
/// let election = Election::new(&client, "/election").data("host-7");
/// let leadership = election.campaign().await?;
/// tokio::select! {
///     () = govern() => leadership.resign().await?,
///     reason = leadership.lost() => eprintln!("no longer the leader: {reason}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "an election does nothing by itself"]
pub struct Election {
    settings: Settings,
    like_selector: bool,
}

impl Election {
    /// The election at `path`, where nothing but this election may keep children. The znode is
    /// created when it is needed.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Election {
            settings: Settings::new(client, path),
            like_selector: false,
        }
    }

    setters!(layout, data, acl);

    /// Shares the election with Curator's `LeaderSelector` instead of its `LeaderLatch`; they do not
    /// see each other.
    pub fn like_selector(mut self) -> Self {
        self.like_selector = true;
        self
    }

    /// Waits until this candidate leads.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::Lock::acquire).
    ///
    /// Cancel safe: dropping the future ends the candidacy and leaves nothing behind.
    #[instrument(name = "Election::campaign", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn campaign(&self) -> Result<Leadership, Error> {
        let guard = self.queue().acquire().await?;
        info!(path = self.path(), node = guard.node(), "leading");
        Ok(Leadership { guard })
    }

    /// As [`campaign`](Election::campaign), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`campaign`](Election::campaign).
    pub async fn campaign_timeout(&self, time: Duration) -> Result<Leadership, Error> {
        within(self.path(), time, self.campaign()).await
    }

    /// Waits until this candidate leads, works, and resigns. The work is dropped as soon as the
    /// leadership is lost.
    ///
    /// ```no_run
    /// # async fn demo(election: quorate_recipes::Election) -> Result<(), quorate_recipes::Error> {
    /// election
    ///     .lead(async |leadership| println!("leading as {}", leadership.fencing_token()))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the leadership was lost before the work was done; otherwise as for
    /// [`campaign`](Election::campaign).
    ///
    /// Cancel safe: dropping the future drops the work and resigns.
    pub async fn lead<T>(&self, work: impl AsyncFnOnce(&Leadership) -> T) -> Result<T, Error> {
        let leadership = self.campaign().await?;
        let done = tokio::select! {
            biased;
            reason = leadership.lost() => return Err(leadership.lost_as(reason)),
            done = work(&leadership) => done,
        };
        leadership.resign().await?;
        Ok(done)
    }

    /// Stands as a candidate in the background, again after each loss of the leadership, for as long
    /// as the value and the session live.
    pub fn stand(&self) -> Candidacy {
        let state = watch::Sender::new(Standing::Waiting);
        let candidacy = Candidacy {
            state: state.subscribe(),
        };
        let election = self.clone();
        self.settings.client.spawn(async move {
            tokio::select! {
                biased;
                () = state.closed() => {}
                error = stand(&election, &state) => {
                    state.send_replace(Standing::Ended(error));
                }
            }
        });
        candidacy
    }

    /// Who leads; `None` while nobody does. The server that answers catches up with the leader of
    /// the ensemble before. Who is found may not have noticed yet that it leads.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`](crate::Lock::contenders).
    pub async fn leader(&self) -> Result<Option<Contender>, Error> {
        Ok(self.candidates().await?.into_iter().next())
    }

    /// All candidates: who leads, who is next, and so on.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`](crate::Lock::contenders).
    pub async fn candidates(&self) -> Result<Vec<Contender>, Error> {
        self.queue().contenders().await
    }

    /// Who leads now, and then whenever another one leads, nobody does, or the leader
    /// [proclaims](Leadership::proclaim) something. Only what is current counts: who led for a
    /// moment only may be passed over.
    ///
    /// Observers are told of changes of the leader and not of other candidates.
    ///
    /// The stream ends after an error, such as the end of the session. Dropping it removes its
    /// watches.
    pub fn observe(&self) -> impl Stream<Item = Result<Option<Contender>, Error>> + Send + use<> {
        let election = self.clone();
        Box::pin(try_stream! {
            let mut known = None;
            loop {
                let (found, watch) = election.look().await?;
                let seen = found.as_ref().map(|(version, _)| *version);
                if known != Some(seen) {
                    known = Some(seen);
                    yield found.map(|(_, leader)| leader);
                }
                watch.await?;
            }
        })
    }

    /// Who leads, in which version, and what tells of a change.
    async fn look(
        &self,
    ) -> Result<
        (
            Option<((i64, i64), Contender)>,
            quorate_client::OneshotWatch,
        ),
        Error,
    > {
        let Settings { client, path, .. } = &self.settings;
        loop {
            if let Some(first) = self.queue().first().await? {
                match patient().run(|| client.get_data_watched(&first)).await {
                    Ok((data, stat, watch)) => {
                        let version = (stat.czxid, stat.mzxid);
                        let leader = Contender::new(first, data, &stat);
                        return Ok((Some((version, leader)), watch));
                    }
                    Err(ClientError::NoNode { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            match patient().run(|| client.get_children_watched(path)).await {
                Ok((names, _, watch)) if names.is_empty() => return Ok((None, watch)),
                // Somebody has come.
                Ok(_) => {}
                Err(ClientError::NoNode { .. }) => {
                    let (stat, watch) = patient().run(|| client.exists_watched(path)).await?;
                    if stat.is_none() {
                        return Ok((None, watch));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn queue(&self) -> Queue<'_> {
        let layout = self.settings.layout;
        Queue(self.settings.site(match (layout, self.like_selector) {
            (Layout::Curator, true) => layout.lock(),
            _ => layout.candidate(),
        }))
    }
}

/// Campaigns again and again until that fails.
async fn stand(election: &Election, state: &watch::Sender<Standing>) -> Error {
    loop {
        let leadership = match election.campaign().await {
            Ok(leadership) => Arc::new(leadership),
            Err(error) => return error,
        };
        let lost = leadership.lost();
        state.send_replace(Standing::Leading(leadership));
        lost.await;
        state.send_replace(Standing::Waiting);
    }
}

/// Proof of being the leader: a [`Guard`] of the leadership.
#[derive(Debug)]
#[must_use = "dropping it resigns"]
pub struct Leadership {
    guard: Guard,
}

impl Leadership {
    /// Tells observers something else than the [data](Election::data) of the candidate.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the leadership is lost; [`Error::Client`] with what a server refuses.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn proclaim(&self, data: impl AsRef<[u8]>) -> Result<(), Error> {
        self.guard.set_data(data.as_ref()).await
    }

    /// Gives up the leadership, and waits until the next candidate can have it.
    ///
    /// # Errors
    ///
    /// As for [`Guard::release`].
    pub async fn resign(self) -> Result<(), Error> {
        self.guard.release().await
    }
}

impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

/// A candidacy in the background, from [`Election::stand`]. It ends when the value is dropped.
///
/// ```no_run
/// # async fn demo(election: quorate_recipes::Election) -> Result<(), quorate_recipes::Error> {
/// let mut candidacy = election.stand();
/// let leadership = candidacy.leading().await?;
/// println!("leading since {}", leadership.fencing_token());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it ends the candidacy"]
pub struct Candidacy {
    state: watch::Receiver<Standing>,
}

#[derive(Debug, Clone)]
enum Standing {
    Waiting,
    Leading(Arc<Leadership>),
    Ended(Error),
}

impl Candidacy {
    /// Does this candidate lead at this very moment?
    pub fn is_leader(&self) -> bool {
        self.leadership().is_some()
    }

    /// The leadership, if this candidate has it at this very moment. It is resigned when the
    /// candidacy is dropped and nobody keeps it.
    pub fn leadership(&self) -> Option<Arc<Leadership>> {
        match &*self.state.borrow() {
            Standing::Leading(leadership) if !leadership.state().is_lost() => {
                Some(Arc::clone(leadership))
            }
            _ => None,
        }
    }

    /// Waits until this candidate leads.
    ///
    /// # Errors
    ///
    /// Why the candidacy has ended, such as with the session.
    ///
    /// Cancel safe.
    pub async fn leading(&mut self) -> Result<Arc<Leadership>, Error> {
        loop {
            match &*self.state.borrow_and_update() {
                Standing::Leading(leadership) if !leadership.state().is_lost() => {
                    return Ok(Arc::clone(leadership));
                }
                Standing::Ended(error) => return Err(error.clone()),
                _ => {}
            }
            if self.state.changed().await.is_err() {
                return Err(ClientError::Closed.into());
            }
        }
    }
}
