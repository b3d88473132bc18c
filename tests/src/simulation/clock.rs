//! The clock of a member: it began somewhere, runs a little too fast or too slow, and may jump.

use quorate_server::zab::Millis;

use super::Micros;

/// A clock that is right to the millionth part of its speed, and never goes back.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Microseconds of its own since `since`, for each million that pass.
    speed: u64,
    /// When it was last changed, and what it showed, in microseconds.
    since: Micros,
    shown: Micros,
}

impl Clock {
    /// A clock that shows `shown` milliseconds at the beginning.
    pub fn new(shown: Millis) -> Self {
        Clock {
            speed: 1_000_000,
            since: 0,
            shown: shown * 1_000,
        }
    }

    fn micros(&self, now: Micros) -> Micros {
        self.shown + (now - self.since) * self.speed / 1_000_000
    }

    /// What it shows.
    pub fn millis(&self, now: Micros) -> Millis {
        self.micros(now) / 1_000
    }

    /// When it will show `millis`, unless it is changed before.
    pub fn when(&self, millis: Millis, now: Micros) -> Micros {
        let left = (millis * 1_000).saturating_sub(self.micros(now));
        // Rounded up, so that it is not too early.
        now + (left * 1_000_000).div_ceil(self.speed)
    }

    /// Lets it run at another speed.
    pub fn drift(&mut self, now: Micros, speed: u64) {
        (self.shown, self.since, self.speed) = (self.micros(now), now, speed);
    }

    /// Lets it jump ahead.
    pub fn jump(&mut self, now: Micros, by: Millis) {
        (self.shown, self.since) = (self.micros(now) + by * 1_000, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_and_jumps_never_goes_back() {
        let mut clock = Clock::new(7);
        assert_eq!(clock.millis(1_000), 8);
        clock.drift(1_000, 500_000);
        assert_eq!(clock.millis(3_000), 9);
        clock.jump(3_000, 10);
        assert_eq!(clock.millis(3_000), 19);
        let when = clock.when(25, 3_000);
        assert_eq!((clock.millis(when - 1), clock.millis(when)), (24, 25));
    }
}
