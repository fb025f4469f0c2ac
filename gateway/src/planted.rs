//! Bugs of shard and session that are here on purpose; see [`holdfast_reactor::planted`].

use holdfast_reactor::planted::Bug;

macro_rules! bugs {
    ($($const:ident = $name:literal, $what:literal;)+) => {
        $(pub(crate) const $const: Bug = Bug::new($name, $what);)+

        /// All bugs of the shard and its sessions.
        pub const SHARD: &[Bug] = &[$($const),+];
    };
}

bugs! {
    LATE_ANSWER_TAKEN = "late-answer-taken", "what a worker says to a session that is gone reaches the slot's next one";
    SPLIT_HEADER_LOST = "split-header-lost", "a receive of one byte, half of a frame's header, is thrown away";
    HELD_BACK_LOST = "held-back-lost", "what a peer sent behind a command that was held back is forgotten";
    RESUME_FORGOTTEN = "resume-forgotten", "a connection is not read again once its worker has room";
    FAREWELL_LOST = "farewell-lost", "a worker whose queue is full never hears that a session is gone";
    ADMISSION_KEPT = "admission-kept", "a connection that was reset counts against the limit for ever";
    OUTPUT_UNBOUNDED = "output-unbounded", "a peer that does not read what it asked for is read on";
    GAP_UNTOLD = "gap-untold", "a session that could not keep up is not told when there is room again";
    CURSOR_AHEAD_OF_DELIVERY = "cursor-ahead-of-delivery", "an event that found no room counts as delivered";
    PAGE_OF_OLDER_SYNC = "page-of-older-sync", "the answer to an older sync is taken for that to the newest";
    REPLACED_GOES_ON = "replaced-goes-on", "the second session of a device does not end the first";
    ANSWERED_TWICE = "answered-twice", "`accepted` is written twice";
}
