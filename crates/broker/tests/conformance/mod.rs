//! What both brokers must do alike: every case runs over the in-process twin and over a real RabbitMQ.
//!
//! Not here: what only a real broker can suffer (`outage.rs`).

mod consuming;
mod publishing;
mod sessions;
mod world;

macro_rules! both {
    ($($module:ident: $($case:ident),* $(,)?;)*) => {
        mod memory {
            $($(
                #[tokio::test]
                async fn $case() -> anyhow::Result<()> {
                    super::$module::$case(super::world::World::memory()).await
                }
            )*)*
        }

        mod rabbit {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() -> anyhow::Result<()> {
                    super::$module::$case(super::world::World::rabbit().await?).await
                }
            )*)*
        }
    };
}

both! {
    publishing:
        a_confirm_means_that_the_message_is_stored,
        messages_arrive_in_the_order_of_the_calls,
        of_mandatory_messages_exactly_the_unroutable_ones_are_returned,
        an_unroutable_message_that_is_not_mandatory_is_confirmed,
        a_full_queue_that_rejects_nacks,
        a_full_queue_that_drops_keeps_the_newest,
        a_body_of_8_mib_passes_and_one_too_large_is_refused_without_harm,
        properties_travel_with_the_message,
        publishing_to_a_missing_exchange_ends_the_session,
        closing_a_session_sends_out_what_was_published,
        dropping_a_receipt_does_not_unsend;
    consuming:
        what_is_not_acked_comes_again_in_place_after_the_session,
        what_is_not_acked_comes_again_in_place_after_the_consumer,
        ack_up_to_takes_all_before_and_leaves_the_rest,
        prefetch_bounds_what_is_unacked,
        of_single_active_consumers_the_next_takes_over_in_order,
        an_ack_of_an_old_session_changes_nothing,
        acking_twice_ends_the_session,
        browsing_gives_back_in_place_what_was_not_acked,
        waiting_for_a_batch_can_be_given_up_without_loss;
    sessions:
        declaring_twice_changes_nothing,
        every_topology_is_accepted,
        what_an_earlier_session_left_comes_first_and_its_queue_is_gone,
        unbinding_what_never_was_changes_nothing,
        a_queue_that_refuses_nacks_for_all_until_it_is_unbound,
        a_declare_with_other_settings_is_a_mismatch,
        a_worker_gets_its_own_messages_and_the_broadcasts,
        the_public_receives_nothing_of_what_executors_and_workers_send_each_other,
        deleting_a_queue_ends_the_sessions_that_consume_it,
        a_missing_queue_is_an_error_that_leaves_the_session_alone,
        consuming_a_missing_queue_ends_the_session,
        a_deleted_queue_is_declared_again_empty,
        after_the_end_everything_fails,
        a_session_ends_with_its_last_handle_and_consumer;
}
