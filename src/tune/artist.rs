//! Draws the pictures of stacks on a thread of its own, each once; those that may be asked for next are drawn ahead.

use super::stroke::{Stack, Stroke};
use super::work::{Drawer, Studio};
use crate::error::{Error, Result};
use crate::pipeline::Cancel;
use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two looks at whether the caller wants to stop.
const OFTEN: Duration = Duration::from_millis(100);

/// What the thread is asked for.
enum Order {
    /// The pictures of these stacks, now.
    Now(Vec<Stack>),
    /// These when there is nothing else to do, the first ones first.
    Later(Vec<Stack>),
}

/// What comes back.
pub(super) enum News {
    Stroke(Stroke),
    Done(Result<Vec<Vec<PathBuf>>>),
}

/// The thread that draws. It ends with this value, after the step at work.
#[derive(Debug)]
pub struct Artist {
    orders: Option<Sender<Order>>,
    news: Receiver<News>,
    thread: Option<JoinHandle<()>>,
    halt: Cancel,
}

impl Artist {
    /// Starts a thread that draws in `studio`.
    ///
    /// # Errors
    /// [`Error::Threads`], and what opening the folder gives.
    pub fn new(studio: Studio) -> Result<Self> {
        let (orders, inbox) = channel();
        let (outbox, news) = channel();
        let halt = studio.halt.clone();
        let worker = move || open(&studio, &inbox, &outbox);
        let thread = std::thread::Builder::new().name("artist".into()).spawn(worker);
        let thread = thread.map_err(|source| Error::Threads { source })?;
        let artist = Self { orders: Some(orders), news, thread: Some(thread), halt };
        match artist.news.recv() {
            Ok(News::Done(opened)) => opened.map(|_| artist),
            _ => Err(Error::Internal("the thread that draws did not begin".into())),
        }
    }

    /// The pictures of each of the stacks, drawn now unless they are there.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when `cancel` is set; what drawing gives.
    pub fn draw(
        &self,
        stacks: Vec<Stack>,
        cancel: &Cancel,
        watch: &mut dyn FnMut(Stroke),
    ) -> Result<Vec<Vec<PathBuf>>> {
        self.send(Order::Now(stacks));
        loop {
            if cancel.check().is_err() {
                self.halt.cancel();
            }
            match self.news.recv_timeout(OFTEN) {
                Ok(News::Stroke(stroke)) => watch(stroke),
                Ok(News::Done(done)) => return done,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Internal("the thread that draws has ended".into()));
                }
            }
        }
    }

    /// Draws these while nothing else is asked for, the first ones first.
    pub fn ahead(&self, stacks: Vec<Stack>) {
        self.send(Order::Later(stacks));
    }

    fn send(&self, order: Order) {
        // A thread that has ended is noticed when its pictures are waited for.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }
}

impl Drop for Artist {
    fn drop(&mut self) {
        self.halt.cancel();
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens the studio, tells what came of that, and draws.
fn open(studio: &Studio, inbox: &Receiver<Order>, outbox: &Sender<News>) {
    let pool = (studio.pools)();
    // The first pool is shared by what looks at jobs and what draws; another one is asked for when a GPU is full.
    let first = Cell::new(Some(pool.clone()));
    let pools = || first.take().unwrap_or_else(|| (studio.pools)());
    match studio.open(pool, &pools) {
        Ok(drawer) => {
            if outbox.send(News::Done(Ok(Vec::new()))).is_ok() {
                work(drawer, inbox, outbox);
            }
        }
        Err(error) => drop(outbox.send(News::Done(Err(error)))),
    }
}

/// Draws what is asked for, until nobody can ask any more.
fn work(mut drawer: Drawer<'_>, inbox: &Receiver<Order>, outbox: &Sender<News>) {
    let mut later: VecDeque<Stack> = VecDeque::new();
    loop {
        let order = if later.is_empty() {
            inbox.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            inbox.try_recv()
        };
        match order {
            Ok(Order::Now(stacks)) => {
                later.clear();
                let done = drawer.draw(&stacks, &|stroke| drop(outbox.send(News::Stroke(stroke))));
                if outbox.send(News::Done(done)).is_err() {
                    return;
                }
            }
            Ok(Order::Later(stacks)) => later = stacks.into(),
            Err(TryRecvError::Empty) => {
                // What goes wrong ahead goes wrong again when it is asked for, and is told then.
                let next = later.pop_front();
                let _ = next.map(|stack| drawer.draw(&[stack], &|_| ()));
            }
            Err(TryRecvError::Disconnected) => return,
        }
    }
}
