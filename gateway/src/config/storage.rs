//! The configuration in the words of the store.

use super::Config;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What the store is opened with: `store/` in the data directory, and the limits that the workers keep.
#[must_use]
pub fn storage_options(config: &Config) -> holdfast_storage::Options {
    let mut options = holdfast_storage::Options::new(config.data.join("store"));
    options.databases = config.storage.databases;
    options.cache_bytes = config.storage.cache_bytes;
    options.commit_interval = config.storage.commit_interval;
    options.limits.retention_ms = config.storage.retention_days.map_or(0, |days| u64::from(days) * DAY_MS);
    // The ranges of these settings are inside the store's own.
    options.limits.devices = u16::try_from(config.limits.devices).unwrap_or(u16::MAX);
    options.limits.group_members = u16::try_from(config.limits.group_members).unwrap_or(u16::MAX);
    options.limits.contacts = config.limits.contacts;
    options.limits.history_messages = config.limits.history_messages;
    options.limits.snapshot_after = u64::from(config.limits.snapshot_after);
    options.limits.presence_grace_ms =
        u64::try_from(config.limits.presence_grace.as_millis()).unwrap_or(u64::MAX);
    options.limits.page_entries = config.limits.page_entries;
    options.limits.page_bytes = usize::try_from(config.limits.page_bytes).unwrap_or(usize::MAX);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_the_stores_ranges() {
        let options = storage_options(&Config::default());
        assert!(options.validate().is_ok());
        assert!(options.directory.ends_with("store"));
        assert_eq!(options.limits.retention_ms, 0);
    }

    #[test]
    fn the_shortest_time_that_messages_are_kept_is_long_enough_for_the_store() {
        let mut config = Config::default();
        config.storage.retention_days = Some(8);
        let options = storage_options(&config);
        assert_eq!(options.limits.retention_ms, 8 * DAY_MS);
        assert!(options.validate().is_ok());
    }
}
