//! How often a client may ask.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients that are remembered; more share what is left.
const MOST_CLIENTS: usize = 65_536;

/// Counts requests by client and window.
pub struct RateLimit {
    most: usize,
    window: Duration,
    /// Client, by a hash that nobody can foresee: the window's begin and its requests.
    clients: Mutex<HashMap<u64, (Instant, usize)>>,
    hasher: RandomState,
}

impl RateLimit {
    /// At most so many a window; 0 for any number.
    #[must_use]
    pub fn new(most: usize, window: Duration) -> Self {
        Self { most, window, clients: Mutex::default(), hasher: RandomState::new() }
    }

    /// Counts a request of a client.
    ///
    /// # Errors
    /// The seconds after which it may ask again.
    pub fn count(&self, client: &str, now: Instant) -> Result<(), u64> {
        if self.most == 0 {
            return Ok(());
        }
        let client = self.hasher.hash_one(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MOST_CLIENTS && !clients.contains_key(&client) {
            let window = self.window;
            clients.retain(|_, (begun, _)| now.saturating_duration_since(*begun) < window);
            if clients.len() >= MOST_CLIENTS {
                return Err(self.window.as_secs().max(1));
            }
        }
        let (begun, count) = clients.entry(client).or_insert((now, 0));
        if now.saturating_duration_since(*begun) >= self.window {
            (*begun, *count) = (now, 0);
        }
        if *count >= self.most {
            let left = self.window.saturating_sub(now.saturating_duration_since(*begun));
            return Err(left.as_secs_f64().ceil().max(1.0) as u64);
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_requests_a_window() {
        let limit = RateLimit::new(2, Duration::from_secs(60));
        let begin = Instant::now();
        assert_eq!((limit.count("a", begin), limit.count("a", begin)), (Ok(()), Ok(())));
        assert_eq!(limit.count("a", begin + Duration::from_secs(10)), Err(50));
        assert_eq!(limit.count("b", begin), Ok(()));
        assert_eq!(limit.count("a", begin + Duration::from_secs(60)), Ok(()));
        let none = RateLimit::new(0, Duration::from_secs(60));
        assert!((0..99).all(|_| none.count("a", begin).is_ok()));
    }
}
