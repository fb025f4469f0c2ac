//! One contract, every driver: the bodies in `bodies.rs` run on io_uring, on epoll and on the simulated network.
//!
//! A driver is a promise to the shard that is turned by it; what one back end allows and another does not would be
//! found in production, on the machine that has the other one.

#![allow(clippy::disallowed_methods, reason = "tests of threads and sockets")]

mod bodies;
mod harness;
mod kernel;
mod simulated;
mod world;

use std::io::Write as _;

use holdfast_reactor::epoll::EpollDriver;
use holdfast_reactor::sim::Faults;
use holdfast_reactor::uring::UringDriver;
use holdfast_reactor::{DriverOptions, ReactorError};

use crate::kernel::Kernel;
use crate::simulated::Simulated;

/// Seeds on which each body runs on the simulated network.
const SEEDS: u64 = 64;

fn epoll(options: DriverOptions) -> Kernel<EpollDriver> {
    Kernel::new(EpollDriver::new(options).expect("epoll is always there"))
}

fn uring(options: DriverOptions) -> Kernel<UringDriver> {
    Kernel::new(UringDriver::new(options).expect("io_uring is allowed, see `io_uring_is_allowed`"))
}

/// As where RLIMIT_NOFILE is far below the number of connections: each ring holds eight.
fn many_rings(options: DriverOptions) -> Kernel<UringDriver> {
    Kernel::new(
        UringDriver::with_table_slots(options, 8).expect("io_uring is allowed, see `io_uring_is_allowed`"),
    )
}

fn kind_network(options: DriverOptions) -> Simulated {
    Simulated::new(options, 0, Faults::NONE)
}

fn unkind_network(seed: u64) -> impl FnOnce(DriverOptions) -> Simulated {
    move |options| Simulated::new(options, seed, Faults::HARMLESS)
}

/// Where io_uring is blocked (containers' default seccomp profiles), its tests test nothing, and that must not look
/// like success: it is written past the test harness, which hides what passing tests print, and fails in CI.
fn io_uring_is_allowed(test: &str) -> bool {
    let refusal = match UringDriver::new(DriverOptions::default()) {
        Ok(_) => return true,
        Err(ReactorError::Setup { source, .. }) if is_refusal(&source) => source,
        Err(error) => panic!("io_uring is there, but {error}"),
    };
    let complaint = format!("NOT TESTED on io_uring: {test}: the kernel refuses it here ({refusal})");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{complaint}");
    let _ = writeln!(std::io::stderr(), "{complaint}");
    false
}

fn is_refusal(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [Errno::PERM, Errno::ACCESS, Errno::NOSYS];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

macro_rules! on_epoll {
    ($body:ident) => {
        crate::bodies::$body(crate::epoll)
    };
}

macro_rules! on_uring {
    ($body:ident) => {
        if crate::io_uring_is_allowed(stringify!($body)) {
            crate::bodies::$body(crate::uring);
        }
    };
}

macro_rules! on_many_rings {
    ($body:ident) => {
        if crate::io_uring_is_allowed(stringify!($body)) {
            crate::bodies::$body(crate::many_rings);
        }
    };
}

macro_rules! on_a_kind_network {
    ($body:ident) => {
        crate::bodies::$body(crate::kind_network)
    };
}

macro_rules! on_unkind_networks {
    ($body:ident) => {
        for seed in 0..crate::SEEDS {
            // The test harness prints it only when the body fails.
            println!("seed {seed}");
            crate::bodies::$body(crate::unkind_network(seed));
        }
    };
}

/// A module of tests, one per body, in the world that `$run` makes.
macro_rules! contract {
    ($module:ident, $run:ident) => {
        mod $module {
            contract!(@tests $run,
                what_a_peer_sends_comes_back
                a_long_stream_arrives_whole_and_in_order
                output_of_many_turns_leaves_in_order
                a_peer_that_does_not_read_makes_unsent_bytes_grow_and_drains_later
                an_output_without_bytes_sends_nothing
                one_receive_per_connection_and_turn
                a_paused_connection_is_not_read_and_its_peer_feels_it
                a_pause_holds_even_where_bytes_were_waiting
                pausing_and_resuming_at_every_turn_loses_nothing
                buffers_that_are_all_lent_hold_up_reading_and_lose_nothing
                the_peer_ends_first
                we_end_first
                a_shutdown_waits_for_what_is_held_back
                a_peer_that_is_dropped_ends_the_stream
                a_reset_while_idle
                a_reset_while_paused
                a_reset_after_the_peers_end
                a_reset_after_our_end
                a_reset_while_output_is_held_back
                a_reset_while_we_are_sending
                a_reset_after_close_changes_nothing
                a_reset_before_anything_was_read
                closing_sends_what_the_socket_takes
                closing_does_not_wait_for_a_peer_that_does_not_read
                closing_twice_is_closing_once
                no_event_follows_close_but_closed
                aborting_resets_and_drops_the_output
                aborting_overtakes_a_close_that_waits
                a_slot_is_used_again_under_a_new_generation
                commands_to_a_name_that_is_gone_do_nothing
                a_turn_keeps_its_deadline
                a_wake_before_the_turn_ends_its_wait
                a_wake_from_another_thread_ends_the_wait
                what_comes_through_a_lane_ends_the_wait
                a_connect_succeeds_and_both_sides_talk
                a_connect_leaves_from_the_address_that_was_asked_for
                a_connect_that_is_refused_fails
                a_connect_from_an_impossible_address_fails
                a_connect_can_be_closed_before_it_succeeds
                connecting_beyond_the_capacity_is_an_error
                a_thousand_connections_at_once
                no_more_are_accepted_than_there_is_room_for
                after_stop_listening_nobody_new_comes_and_those_inside_stay
                listening_again_after_stopping
            );
        }
    };
    (@tests $run:ident, $($body:ident)+) => {
        $(
            #[test]
            fn $body() {
                $run!($body);
            }
        )+
    };
}

contract!(epoll, on_epoll);
contract!(uring, on_uring);
contract!(many_rings, on_many_rings);
contract!(kind_network, on_a_kind_network);
contract!(unkind_network, on_unkind_networks);
