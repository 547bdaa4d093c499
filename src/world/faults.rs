//! What goes wrong in the world, how often in which seed, and how often it did.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! faults {
    ($($variant:ident => $label:literal, $weight_max:literal;)+) => {
        /// Something that goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Fault { $($variant,)+ }

        impl Fault {
            /// Every fault.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// Weight among the actions in the worst of seeds; 0 where it comes by the way.
            fn weight_max(self) -> u32 {
                match self { $(Self::$variant => $weight_max,)+ }
            }
        }
    };
}

faults! {
    Kill => "process killed", 6;
    PowerCut => "power cut", 6;
    Stop => "process stopped and started", 3;
    SideWritesLost => "power cut took the latest of the side writers' commits", 0;
    NetworkBreaks => "connection to the broker broken", 6;
    BrokerRestart => "broker restarted, packet ids renumbered", 4;
    SessionLost => "broker forgot the session", 3;
    Redelivery => "message delivered again", 0;
    AppendFails => "write torn", 4;
    SyncFails => "sync failed", 4;
    FolderSyncFails => "sync of the folder failed", 3;
    CreateFails => "segment could not be created", 3;
    DiskFills => "journal's disk full", 4;
    DiskSlow => "journal's disk slow, nothing committed for a while", 3;
    BitFlips => "bit of a closed segment flipped", 2;
    ReadsFail => "reads of the journal failed", 3;
    JournalRefuses => "batch refused by the journal", 0;
    StoreFull => "store's disk full while flushing", 4;
    FlushFails => "process killed after a flush that failed", 0;
    DeviceOffline => "device offline, its backlog sent late in any order", 5;
    Resend => "message sent again by its device", 8;
    Misdated => "device clock years off", 4;
    Garbage => "payload or topic garbled", 5;
    CounterResets => "counter reset", 0;
    CounterWraps => "counter wrapped", 0;
    GatewayClockSteps => "gateway clock stepped", 3;
    Hours => "hours passed", 3;
    FarAway => "time-series store away", 5;
    AnswerLost => "time-series store took all, answer lost", 0;
    WritePartial => "time-series store took some and failed", 0;
    WriteFailed => "time-series store failed", 0;
    BodyTooLarge => "time-series store found the body too large", 0;
    LineRefused => "time-series store refused a line for good", 0;
}

/// How often what goes wrong in one world.
#[derive(Clone, Debug)]
pub(super) struct Mood {
    weights: BTreeMap<Fault, u32>,
}

impl Mood {
    /// The mood of a seed: about half of the faults, each with a weight of its own.
    pub(super) fn of(rng: &mut fastrand::Rng) -> Self {
        let weight = |fault: &Fault| {
            let max = fault.weight_max();
            let weight = if max > 0 && rng.bool() { rng.u32(1..=max) } else { 0 };
            (*fault, weight)
        };
        Self { weights: Fault::ALL.iter().map(weight).collect() }
    }

    /// Weight of a fault among the actions.
    pub(super) fn weight(&self, fault: Fault) -> u32 {
        self.weights[&fault]
    }
}

/// How often what went wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(BTreeMap<Fault, u64>);

impl Faults {
    pub(super) fn count(&mut self, fault: Fault) {
        self.add(fault, 1);
    }

    pub(super) fn add(&mut self, fault: Fault, times: u64) {
        *self.0.entry(fault).or_default() += times;
    }

    pub(super) fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (&fault, &times) in &other.0 {
            self.add(fault, times);
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in Fault::ALL {
            writeln!(f, "{:>10}  {}", self.of(*fault), fault.label())?;
        }
        Ok(())
    }
}
