//! What clients asked and were answered, and whether one tree could have answered so.
//!
//! Writes take effect in the order of their transactions, one after the other, somewhere between
//! the request and its answer; reads show the tree behind some transaction, never an older one than
//! the session has seen, and behind a `sync` nothing older than what anybody was told before it. A
//! write without an answer may have taken effect or not, but not twice.

use std::collections::BTreeMap;

use super::checker::{Chain, Checked, Z, demand};
use super::model::{Answer, Model, Op};
use super::service::ConnId;

/// One request.
#[derive(Debug)]
struct Call {
    conn: ConnId,
    session: i64,
    op: Op,
    /// The newest transaction that anybody was told of when it was asked.
    known: i64,
    /// The newest transaction that the session had to see then.
    floor: i64,
    /// What came back, and the transaction that the answering tree was at.
    answer: Option<(i64, Answer)>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    by_cxid: BTreeMap<(i64, i32), usize>,
    /// The newest transaction that anybody was told of.
    known: i64,
    /// The last write that was acknowledged on a connection.
    last_on: BTreeMap<ConnId, i64>,
    /// What a session has to see.
    floors: BTreeMap<i64, i64>,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
}

impl History {
    /// A session has been opened by `zxid`, or goes on at a server that is there.
    pub fn connected(&mut self, session: i64, zxid: i64) -> Checked {
        let floor = self.floors.entry(session).or_insert(0);
        demand!(
            "C3",
            zxid >= *floor,
            "session {session:x} goes on at {}, and has seen {}",
            Z(zxid),
            Z(*floor)
        );
        *floor = zxid;
        Ok(())
    }

    /// A client asks something.
    pub fn asked(&mut self, conn: ConnId, session: i64, cxid: i32, op: Op) {
        let floor = self.floors.get(&session).copied().unwrap_or(0);
        self.by_cxid.insert((session, cxid), self.calls.len());
        self.calls.push(Call {
            conn,
            session,
            op,
            known: self.known,
            floor,
            answer: None,
        });
    }

    /// A client is answered. Says whether a write was acknowledged.
    pub fn answered(
        &mut self,
        session: i64,
        cxid: i32,
        zxid: i64,
        answer: Answer,
        chain: &Chain,
    ) -> Checked<bool> {
        let Some(at) = self.by_cxid.get(&(session, cxid)) else {
            return Ok(false);
        };
        let call = &mut self.calls[*at];
        let floor = self.floors.entry(session).or_insert(0);
        demand!(
            "C3",
            zxid >= call.floor && zxid >= *floor,
            "session {session:x} is answered at {}, and has seen {}",
            Z(zxid),
            Z(*floor)
        );
        *floor = zxid;
        demand!(
            "linearizability",
            call.op != Op::Sync || zxid >= call.known,
            "a sync of session {session:x} is answered at {}, and {} was known before it was asked",
            Z(zxid),
            Z(call.known)
        );
        if call.op.is_write() {
            let last = self.last_on.entry(call.conn).or_insert(0);
            demand!(
                "C1",
                zxid > *last,
                "session {session:x} is told of {} behind {}",
                Z(zxid),
                Z(*last)
            );
            *last = zxid;
            demand!(
                "linearizability",
                zxid > call.known,
                "{:?} of session {session:x} became {}, and {} was acknowledged before it was asked",
                call.op,
                Z(zxid),
                Z(call.known)
            );
            let header = chain
                .header(zxid)
                .map(|header| (header.session_id, header.cxid));
            demand!(
                "C6",
                header == Some((session, cxid)),
                "session {session:x} is told that {} is its request {cxid}, and it is {header:x?}",
                Z(zxid)
            );
            self.writes += 1;
        } else {
            self.reads += 1;
        }
        self.known = self.known.max(zxid);
        call.answer = Some((zxid, answer));
        Ok(call.op.is_write())
    }

    /// Compares all answers with what the model says, once `committed` is all that there is.
    pub fn check(&self, chain: &Chain, committed: i64) -> Checked {
        let mut model = Model::default();
        let mut reads: BTreeMap<i64, Vec<&Call>> = BTreeMap::new();
        for call in self.calls.iter().filter(|call| !call.op.is_write()) {
            if let Some((zxid, _)) = call.answer {
                reads.entry(zxid).or_default().push(call);
            }
        }
        let mut done = vec![false; self.calls.len()];
        self.check_reads(reads.remove(&0), &mut model, 0)?;
        for entry in chain.history(committed) {
            let Some(header) = chain.header(entry.zxid) else {
                continue;
            };
            let asked = self.by_cxid.get(&(header.session_id, header.cxid));
            if let Some(at) = asked.filter(|_| header.cxid != 0) {
                let call = &self.calls[*at];
                demand!(
                    "C7",
                    !std::mem::replace(&mut done[*at], true),
                    "{:?} took effect a second time as {}",
                    call.op,
                    Z(entry.zxid)
                );
                let expected = model.apply(call.session, &call.op);
                if let Some((zxid, answer)) = &call.answer {
                    demand!(
                        "linearizability",
                        *zxid == entry.zxid
                            && (*answer == expected || matches!(call.op, Op::Reconfig { .. })),
                        "{:?} was answered {answer:?} at {}; as {} it comes to {expected:?}",
                        call.op,
                        Z(*zxid),
                        Z(entry.zxid)
                    );
                }
            } else {
                let opens = header.op == Op::Open.code().number();
                let op = if opens { Op::Open } else { Op::Close };
                model.apply(header.session_id, &op);
            }
            self.check_reads(reads.remove(&entry.zxid), &mut model, entry.zxid)?;
        }
        let mut lost = self.calls.iter().zip(&done);
        let lost = lost.find(|(call, done)| call.op.is_write() && call.answer.is_some() && !**done);
        demand!("C6", lost.is_none(), "acknowledged and lost: {lost:?}");
        demand!(
            "C6",
            reads.is_empty(),
            "read what was never committed: {reads:?}"
        );
        Ok(())
    }

    fn check_reads(&self, reads: Option<Vec<&Call>>, model: &mut Model, at: i64) -> Checked {
        for call in reads.unwrap_or_default() {
            let expected = model.apply(call.session, &call.op);
            let answer = call.answer.as_ref().map(|(_, answer)| answer);
            demand!(
                "linearizability",
                answer == Some(&expected),
                "{:?} was answered {answer:?} at {}, where the model says {expected:?}",
                call.op,
                Z(at)
            );
        }
        Ok(())
    }
}
