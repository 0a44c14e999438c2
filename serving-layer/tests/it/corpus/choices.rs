//! A generator's choices as a list of numbers: the same list makes the same thing, and a list with less in it a smaller
//! one. So whatever is generated can be shrunken without knowing what it is.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Choices to come, and those that were made.
#[derive(Debug)]
pub(crate) struct Choices {
    given: Vec<u32>,
    random: Option<StdRng>,
    pub(crate) made: Vec<u32>,
}

impl Choices {
    pub(crate) fn random(seed: u64) -> Self {
        Self {
            given: Vec::new(),
            random: Some(StdRng::seed_from_u64(seed)),
            made: Vec::new(),
        }
    }

    /// Those of `given`, then always the first.
    pub(crate) fn again(given: Vec<u32>) -> Self {
        Self {
            given,
            random: None,
            made: Vec::new(),
        }
    }

    /// A number below `below`; 0 is to stand for what is simplest.
    pub(crate) fn pick(&mut self, below: usize) -> usize {
        let made = match (self.given.get(self.made.len()), &mut self.random) {
            (Some(given), _) => given % below as u32,
            (None, Some(random)) => random.random_range(0..below as u32),
            (None, None) => 0,
        };
        self.made.push(made);
        made as usize
    }

    /// True once in `times`.
    pub(crate) fn rarely(&mut self, times: usize) -> bool {
        self.pick(times) == times - 1
    }

    pub(crate) fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.pick(of.len())]
    }
}

/// The least list found that `fails`, with what it says, beginning at `made` that failed with `failure`.
pub(crate) async fn shrunken<T>(
    mut made: Vec<u32>,
    mut failure: T,
    tries: usize,
    fails: impl AsyncFn(Vec<u32>) -> Option<T>,
) -> (Vec<u32>, T) {
    let mut left = tries;
    loop {
        let before = made.clone();
        for length in [16, 8, 4, 2, 1] {
            let mut at = 0;
            while at + length <= made.len() && left > 0 {
                let mut fewer = made.clone();
                fewer.drain(at..at + length);
                let mut simpler = made.clone();
                simpler[at..at + length].fill(0);
                let mut smaller = None;
                for tried in [fewer, simpler] {
                    if tried == made || left == 0 {
                        continue;
                    }
                    left -= 1;
                    if let Some(other) = fails(tried.clone()).await {
                        smaller = Some((tried, other));
                        break;
                    }
                }
                match smaller {
                    Some((tried, other)) => {
                        let shorter = tried.len() < made.len();
                        (made, failure) = (tried, other);
                        if !shorter {
                            at += 1;
                        }
                    }
                    None => at += 1,
                }
            }
        }
        if made == before || left == 0 {
            return (made, failure);
        }
    }
}
