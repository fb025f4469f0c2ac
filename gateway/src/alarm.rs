//! Tells whoever waits for a signal that the server cannot go on: a shard's driver has broken.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

type Call = Box<dyn Fn() + Send + Sync>;

/// Raised by the thread that fails, heard by the one that decides what becomes of the process.
#[derive(Default)]
pub(crate) struct Alarm {
    is_raised: AtomicBool,
    call: OnceLock<Call>,
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alarm").field("is_raised", &self.is_raised).finish_non_exhaustive()
    }
}

impl Alarm {
    /// Something cannot go on.
    pub(crate) fn raise(&self) {
        self.is_raised.store(true, Ordering::SeqCst);
        if let Some(call) = self.call.get() {
            call();
        }
    }

    /// What to do then; done at once if it has happened already, and perhaps twice. Only the first one counts.
    pub(crate) fn on_raised(&self, call: impl Fn() + Send + Sync + 'static) {
        let call = self.call.get_or_init(|| Box::new(call));
        if self.is_raised.load(Ordering::SeqCst) {
            call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn is_heard_whichever_comes_first() {
        for raised_first in [true, false] {
            let (alarm, heard) = (Alarm::default(), Arc::new(AtomicUsize::new(0)));
            let count = Arc::clone(&heard);
            let call = move || {
                count.fetch_add(1, Ordering::SeqCst);
            };
            if raised_first {
                alarm.raise();
                alarm.on_raised(call);
            } else {
                alarm.on_raised(call);
                alarm.raise();
            }
            assert_eq!(heard.load(Ordering::SeqCst), 1);
        }
    }
}
