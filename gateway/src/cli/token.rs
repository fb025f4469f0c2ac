//! `holdfast token`

use std::time::Duration;

use clap::Args;

use super::{DataFlags, Exit, Failure, print};
use crate::config::parse_duration;
use crate::token::{Claims, KEY_FILE, TokenKey, is_device_name, unix_now_seconds, user_of_name};

#[derive(Debug, Args)]
#[command(after_help = "\
The token goes to standard output, alone on its line. The key is `token.key` in the data directory; it is made when
it is not there, and a server that starts later uses it.

Examples:
  holdfast token --user 42 --device phone
  holdfast token --user ana --lifetime 1h --data /var/lib/holdfast")]
pub(super) struct TokenArgs {
    /// The user: an id, or a guest's name.
    #[arg(long)]
    user: String,
    /// The device: 1 to 64 of [A-Za-z0-9._-]. Without it the client says which one it is.
    #[arg(long)]
    device: Option<String>,
    /// How long it is valid, as 30d, 12h or 90s [default: auth.token_lifetime, 30d].
    #[arg(long)]
    lifetime: Option<String>,
    #[command(flatten)]
    flags: DataFlags,
}

pub(super) fn run(args: &TokenArgs) -> Result<Exit, Failure> {
    let usage = |message: String| Failure { exit: Exit::Usage, message };
    let config = args.flags.resolve()?.config;
    let user = user_of_name(&args.user).map_err(|error| usage(format!("--user {:?}: {error}", args.user)))?;
    if let Some(device) = args.device.as_deref().filter(|device| !is_device_name(device)) {
        return Err(usage(format!("--device {device:?}: a device is 1 to 64 of [A-Za-z0-9._-]")));
    }
    let lifetime = match &args.lifetime {
        None => config.auth.token_lifetime,
        Some(text) => parse_duration(text).map_err(|why| usage(format!("--lifetime {text:?}: {why}")))?,
    };
    if lifetime < Duration::from_secs(1) {
        return Err(usage(format!(
            "--lifetime {}: at least 1s",
            args.lifetime.as_deref().unwrap_or_default()
        )));
    }
    let is_new = !config.data.join(KEY_FILE).exists();
    let key = TokenKey::load_or_create(&config.data).map_err(|error| Failure::new(Exit::Setup, &error))?;
    if is_new {
        eprintln!(
            "holdfast: made a new key, {}; a server with this data directory uses it",
            config.data.join(KEY_FILE).display()
        );
    }
    let now = unix_now_seconds();
    let device = args.device.as_deref().map(Into::into);
    let expires_at = now.saturating_add(lifetime.as_secs());
    let token = key.mint(&Claims { user, device, issued_at: now, expires_at });
    print(&format!("{token}\n"))?;
    Ok(Exit::Ok)
}
