//! One contract, every driver: the bodies in `bodies.rs` run on io_uring, on epoll and on the simulated network.
//!
//! A driver is a promise to the shard that is turned by it; what one back end allows and another does not would be
//! found in production, on the machine that has the other one.

#![allow(clippy::disallowed_methods, reason = "tests of threads and sockets")]

mod bodies;
mod harness;
mod kernel;
mod world;

use holdfast_reactor::DriverOptions;
use holdfast_reactor::epoll::EpollDriver;

use crate::kernel::Kernel;

fn on_epoll(options: DriverOptions) -> Kernel<EpollDriver> {
    Kernel::new(EpollDriver::new(options).expect("epoll is always there"))
}

/// A test per body, in the world that `$make` makes.
macro_rules! contract {
    ($module:ident, $make:path) => {
        mod $module {
            contract!(@tests $make,
                what_a_peer_sends_comes_back
                a_long_stream_arrives_whole_and_in_order
                output_of_many_turns_leaves_in_order
                a_peer_that_does_not_read_makes_unsent_bytes_grow_and_drains_later
                an_output_without_bytes_sends_nothing
                one_receive_per_connection_and_turn
                a_paused_connection_is_not_read_and_its_peer_feels_it
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
    (@tests $make:path, $($body:ident)+) => {
        $(
            #[test]
            fn $body() {
                crate::bodies::$body($make);
            }
        )+
    };
}

contract!(epoll, crate::on_epoll);
