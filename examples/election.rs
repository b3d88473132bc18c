//! Candidates who lead one after the other, as leaders resign and die.
//!
//!     cargo run --release --example election
//!
//! Each leader numbers a piece of work with its token. One resigns, one is killed, one loses its
//! candidacy by an operator's hand. An observer, who is no candidate, follows who leads.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::StreamExt;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::{Client, Election};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Candidates who lead one after the other.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many stand
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(4..))]
    candidates: u16,
}

const PATH: &str = "/quorate/demo/election";
const TERM: Duration = Duration::from_millis(600);

/// Who led from when to when, by its own account, and its token.
type Terms = Arc<Mutex<Vec<(Instant, Instant, i64)>>>;

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let servers = Servers::new(args.place, Duration::from_secs(2), story).await?;
    let observer = servers.client().await?;
    let (terms, turn) = (Terms::default(), Arc::new(AtomicUsize::new(0)));
    let mut candidates: JoinSet<Result<(), Failure>> = JoinSet::new();
    for n in 1..=args.candidates {
        let (client, operator) = (servers.client().await?, observer.clone());
        let (story, terms, turn) = (story.clone(), Arc::clone(&terms), Arc::clone(&turn));
        let name = format!("candidate {n}");
        candidates.spawn(async move {
            let election = Election::new(&client, PATH).data(&name);
            let leadership = election.campaign().await?;
            let (from, token) = (Instant::now(), leadership.fencing_token().get());
            let next = election.candidates().await?;
            let next = next
                .get(1)
                .map(|next| String::from_utf8_lossy(&next.data).into_owned());
            let next = next.unwrap_or_else(|| "nobody".to_owned());
            story.tell(format_args!("{name} leads, token {token}; next is {next}"));
            sleep(TERM).await;
            let end = match turn.fetch_add(1, Ordering::SeqCst) {
                1 => {
                    story.tell(format_args!("{name} is killed"));
                    client.detach().await?;
                    Instant::now()
                }
                2 => {
                    story.tell(format_args!("an operator deletes the candidacy of {name}"));
                    operator.delete(leadership.node(), None).await?;
                    let reason = leadership.lost().await;
                    story.tell(format_args!("{name} stops: {reason}"));
                    // By its own account it led until it heard of it; the next one may have been
                    // told a moment before, which is what the token is for.
                    from + TERM
                }
                _ => {
                    let end = Instant::now();
                    leadership.resign().await?;
                    story.tell(format_args!("{name} has resigned"));
                    end
                }
            };
            let mut terms = terms.lock().unwrap_or_else(PoisonError::into_inner);
            terms.push((from, end, token));
            Ok(())
        });
    }
    let observing = tokio::spawn(observe(observer.clone()));
    while let Some(ended) = candidates.join_next().await {
        ended??;
    }
    let seen = observing.await??;
    story.tell(format_args!("the observer has seen {}", seen.join(", ")));
    let terms = terms.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(verdict(&terms, &seen, usize::from(args.candidates)))
}

/// The leaders that an observer sees, until there is none any more.
async fn observe(client: Client) -> Result<Vec<String>, Failure> {
    let mut leaders = Election::new(&client, PATH).observe();
    let mut seen: Vec<String> = Vec::new();
    while let Some(leader) = leaders.next().await {
        match leader? {
            Some(leader) => seen.push(String::from_utf8_lossy(&leader.data).into_owned()),
            None if seen.is_empty() => {}
            None => break,
        }
    }
    Ok(seen)
}

/// Looks whether everybody led once, tokens rose, and no two led at once.
fn verdict(
    terms: &[(Instant, Instant, i64)],
    seen: &[String],
    candidates: usize,
) -> Result<String, String> {
    let mut terms = terms.to_vec();
    terms.sort_unstable();
    for pair in terms.windows(2) {
        let [(_, until, token), (from, _, next)] = pair else {
            continue;
        };
        if from < until {
            return Err("two led at once".to_owned());
        }
        if next <= token {
            return Err(format!("token {next} came after {token}"));
        }
    }
    let different: std::collections::BTreeSet<_> = seen.iter().collect();
    if terms.len() != candidates || different.len() != candidates {
        return Err(format!(
            "{} led, {} were seen",
            terms.len(),
            different.len()
        ));
    }
    Ok(format!(
        "{candidates} led, no two at once, with rising tokens, as the observer saw"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_not_always_right() {
        let start = Instant::now();
        let term = |from, until, token| {
            let at = |ms| start + Duration::from_millis(ms);
            (at(from), at(until), token)
        };
        let seen = ["a".to_owned(), "b".to_owned()];
        assert!(verdict(&[term(0, 1, 3), term(1, 2, 5)], &seen, 2).is_ok());
        assert!(verdict(&[term(0, 2, 3), term(1, 2, 5)], &seen, 2).is_err());
        assert!(verdict(&[term(0, 1, 5), term(1, 2, 3)], &seen, 2).is_err());
        assert!(verdict(&[term(0, 1, 3)], &seen, 2).is_err());
        assert!(verdict(&[term(0, 1, 3), term(1, 2, 5)], &seen[..1], 2).is_err());
    }
}
