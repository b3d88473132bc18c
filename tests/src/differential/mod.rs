//! The same random programs sent to two servers, and every answer compared.
//!
//! A [`Program`](program::Program) is a list of steps on a few connections. The
//! [generator](generate::Generator) makes it from a seed; what it makes is recorded, so that a
//! difference can be shrunk to the few requests that show it. A step is run on both
//! servers, and has ended on both before the next begins: writes of different connections never
//! race, so that both servers see the same history and even the zxids must agree.
//!
//! What may differ is masked in one place ([`observe`]): times, session ids, passwords, and the
//! order of lists that the protocol leaves open. What differs for a reason is listed in another
//! ([`rules`]). Anything else is a failure.

pub mod generate;
pub mod observe;
pub mod program;
pub mod rules;
pub mod run;
pub mod tree;
