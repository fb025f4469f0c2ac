//! `autobahn`: lets the suite's fuzzing server judge the client side of our WebSocket code. The verdicts stand in
//! the suite's own report; here counts only that all cases were gone through.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::fail;
use super::setup::{SetupError, driver, pair_limit};
use crate::address::AddressPlan;
use crate::cli::AutobahnArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::{EngineOptions, Ramp};
use crate::outcome::Outcome;
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::scenario::autobahn::{Autobahn, AutobahnReport};
use crate::target::Target;

/// All cases together; the longest takes a quarter of a minute.
const AT_MOST: Duration = Duration::from_secs(1_800);
/// The longest message of the suite has 16 MiB.
const MESSAGE_BYTES_MAX: u64 = 17 << 20;

pub(super) fn run(args: &AutobahnArgs) -> ExitCode {
    match cases(args) {
        Ok(AutobahnReport { cases: Some(cases), done, error: None }) if done == cases => {
            println!("{done} cases gone through");
            ExitCode::from(Outcome::Ok.exit_code())
        }
        Ok(report) => {
            let why = report.error.unwrap_or_else(|| "broken off".into());
            println!("{} of {} cases gone through: {why}", report.done, report.cases.unwrap_or(0));
            ExitCode::from(Outcome::ThresholdMissed.exit_code())
        }
        Err(error) => fail(&error),
    }
}

fn cases(args: &AutobahnArgs) -> Result<AutobahnReport, SetupError> {
    let target = Target::parse(&args.url)?;
    let kind = driver(args.driver)?;
    let options = EngineOptions {
        members: 1,
        together: 1,
        first_member: 0,
        seed: 1,
        addresses: Arc::new(AddressPlan::new(1, target.address, &[], pair_limit(), |_| false)?),
        host: target.host.as_str().into(),
        path: target.path.as_str().into(),
        subprotocols: Arc::new([]),
        headers: Arc::new([]),
        ramp: Ramp::Flat,
        in_flight_max: 1,
        timeout: Duration::from_secs(30),
        attempts_max: 1,
        heartbeat: Duration::ZERO,
        message_bytes_max: MESSAGE_BYTES_MAX,
    };
    let crew = Crew::start(kind, &options, 1, |_| Autobahn::new(args.agent.clone()))?;
    let mut pilot = Pilot::new(crew, 1, Progress::new(true, clock::monotonic()), catch_signals()?);
    pilot.phase("cases", AT_MOST, |now| now.awaited == 0 && now.outstanding == 0)?;
    let landing = pilot.land()?;
    Ok(landing.reports.into_iter().next().unwrap_or_default())
}
