//! Work that several actors share: each takes the next piece when it is done with the one before.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

/// Who works: an actor in this thread, or several in threads of their own.
pub trait Crew<A> {
    /// How many they are.
    fn count(&self) -> usize;

    /// Lets them `work` at the pieces of `todo`, begun in this order, and hands what they give to `done` in this thread, in
    /// the order in which it comes. Once `work` breaks or `done` fails nothing more is begun; what is under way is finished,
    /// and handed over where `done` did not fail.
    ///
    /// # Errors
    /// The first of `done`.
    fn share<P: Copy + Sync, T: Send, E>(
        &mut self,
        todo: &[P],
        work: impl Fn(&mut A, P) -> ControlFlow<T, T> + Sync,
        done: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E>;
}

/// A single actor.
pub struct Alone<'a, A>(pub &'a mut A);

impl<A> Crew<A> for Alone<'_, A> {
    fn count(&self) -> usize {
        1
    }

    fn share<P: Copy + Sync, T: Send, E>(
        &mut self,
        todo: &[P],
        work: impl Fn(&mut A, P) -> ControlFlow<T, T> + Sync,
        mut done: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        for piece in todo {
            match work(self.0, *piece) {
                ControlFlow::Continue(given) => done(given)?,
                ControlFlow::Break(given) => return done(given),
            }
        }
        Ok(())
    }
}

impl<A: Send> Crew<A> for Vec<A> {
    fn count(&self) -> usize {
        self.len()
    }

    fn share<P: Copy + Sync, T: Send, E>(
        &mut self,
        todo: &[P],
        work: impl Fn(&mut A, P) -> ControlFlow<T, T> + Sync,
        mut done: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        if let [only] = &mut self[..] {
            return Alone(only).share(todo, work, done);
        }
        let actors = self;
        let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (send, given) = channel();
        std::thread::scope(|scope| {
            let working: Vec<_> = actors
                .iter_mut()
                .map(|actor| {
                    let (send, next, ended, work) = (send.clone(), &next, &ended, &work);
                    scope.spawn(move || {
                        while !ended.load(Ordering::SeqCst) {
                            let Some(piece) = todo.get(next.fetch_add(1, Ordering::SeqCst)) else { break };
                            let given = work(actor, *piece);
                            ended.fetch_or(given.is_break(), Ordering::SeqCst);
                            let (ControlFlow::Continue(given) | ControlFlow::Break(given)) = given;
                            // Nobody receives any more where `done` failed.
                            let _ = send.send(given);
                        }
                    })
                })
                .collect();
            drop(send);
            let result = given.iter().try_for_each(&mut done);
            ended.fetch_or(result.is_err(), Ordering::SeqCst);
            for actor in working {
                actor.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
            result
        })
    }
}

/// Values by their place, handed on in the order of the places.
pub struct InOrder<T> {
    next: usize,
    waiting: BTreeMap<usize, T>,
}

impl<T> InOrder<T> {
    /// Some of the values; place 0 is the first to be handed on.
    pub fn new(known: impl IntoIterator<Item = (usize, T)>) -> Self {
        InOrder { next: 0, waiting: known.into_iter().collect() }
    }

    /// One value more.
    pub fn put(&mut self, place: usize, value: T) {
        self.waiting.insert(place, value);
    }

    /// The next value, once those of all places before were handed on.
    pub fn ready(&mut self) -> Option<T> {
        let value = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(value)
    }

    /// What is left, where places are missing.
    pub fn rest(self) -> impl Iterator<Item = T> {
        self.waiting.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const TODO: [usize; 7] = [0, 1, 2, 3, 4, 5, 6];

    #[test]
    fn every_piece_is_done_once_and_by_all_actors() {
        for count in 1..=3 {
            let mut actors = vec![0; count];
            // Nobody goes on before everybody has begun.
            let begun = Barrier::new(count);
            let mut found = Vec::new();
            let work = |done: &mut usize, piece| {
                if *done == 0 {
                    begun.wait();
                }
                *done += 1;
                ControlFlow::Continue(piece)
            };
            let shared = actors.share(&TODO, work, |piece| {
                found.push(piece);
                Ok::<(), ()>(())
            });
            found.sort_unstable();
            assert_eq!((shared, &found[..]), (Ok(()), &TODO[..]));
            assert!(actors.iter().sum::<usize>() == TODO.len() && !actors.contains(&0), "{actors:?}");
        }
    }

    #[test]
    fn nothing_is_begun_after_a_break_and_what_is_under_way_is_handed_over() {
        for count in [1, 2] {
            let begun = Barrier::new(count);
            let mut found = Vec::new();
            let work = |_: &mut (), piece| {
                // The others are under way when the first one breaks.
                if piece < count {
                    begun.wait();
                }
                if piece == 0 { ControlFlow::Break(piece) } else { ControlFlow::Continue(piece) }
            };
            let shared = vec![(); count].share(&TODO, work, |piece| {
                found.push(piece);
                Ok::<(), ()>(())
            });
            assert!(shared.is_ok() && found.contains(&0) && found.len() >= count, "{found:?}");
            assert!(count > 1 || found == [0], "{found:?}");
        }
    }

    #[test]
    fn a_failure_of_who_is_told_ends_it() {
        for count in [1, 2] {
            let mut told = 0;
            let shared = vec![(); count].share(
                &TODO,
                |(), piece| ControlFlow::Continue(piece),
                |_| {
                    told += 1;
                    Err("full")
                },
            );
            assert_eq!((shared, told), (Err("full"), 1));
        }
    }

    #[test]
    fn values_wait_for_those_before_them() {
        let mut order = InOrder::new([(1, "b")]);
        assert_eq!(order.ready(), None);
        order.put(0, "a");
        order.put(3, "d");
        assert_eq!([order.ready(), order.ready(), order.ready()], [Some("a"), Some("b"), None]);
        assert_eq!(order.rest().collect::<Vec<_>>(), ["d"]);
    }
}
