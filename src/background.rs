//! Threads whose work can wait: roll-ups and indicators.
//!
//! A minute's rows of a whole city keep a core busy for seconds. Meanwhile the threads that receive, sync and acknowledge must have
//! a core as soon as they want one: devices wait for them. Between services niceness says nothing where each is scheduled as a group of
//! its own, as those of systemd and containers are.

use std::io;
use std::thread::{Builder, JoinHandle};

/// How much nicer such a thread is than the daemon (`nice(2)`): beside one of the daemon's niceness it gets a tenth of a core.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Starts a thread of this name that gives way to those of the daemon's own niceness.
///
/// # Errors
/// Where no thread can be started. One that cannot be made nicer works all the same.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        // On Linux niceness is a thread's own.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(NICER) {
            let current = std::thread::current();
            tracing::warn!(thread = current.name(), %error, "cannot give way to the other threads");
        }
        work();
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;

    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn such_a_thread_alone_gives_way() {
        let before = getpriority_process(None).expect("own niceness");
        let (tell, told) = mpsc::channel();
        let work = move || tell.send(getpriority_process(None)).expect("the test waits");
        spawn("background", work).expect("thread").join().expect("work");
        let there = told.recv().expect("work").expect("its niceness");
        assert_eq!(there, (before + NICER).min(19));
        assert_eq!(getpriority_process(None), Ok(before), "the others stay as they were");
    }
}
