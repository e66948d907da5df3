//! Realistic web logs from a seed: every format, traffic peaks, a status mix, a spread of clients, injected attacks
//! and labels that say what was injected.
//!
//! [`Generator`] makes lines one by one into a buffer of the caller's and knows nothing of clocks, files or sockets.
//! [`run`](run::run) writes them to a [`target`] as their time comes; [`spawn_into_feed`](live::spawn_into_feed) makes
//! them a source of a running pipeline.
//!
//! Invariants
//! - The same [`GeneratorSpec`] gives the same bytes on any machine, at any speed. No clock, no hash order, no floating
//!   point beyond `+ - * /`.
//! - Base traffic is the same whatever attacks, classes and heartbeats are added; `silence` only takes lines away,
//!   `error-surge` only changes their answers.
//! - Memory does not grow with the number of lines.

mod access_format;
mod attack;
mod attack_words;
mod dist;
pub mod flags;
mod label;
mod line;
pub mod live;
mod messages;
mod rate;
mod rng;
pub mod run;
mod site;
pub mod spec;
pub mod target;
mod traffic;

#[cfg(test)]
mod tests;

pub use dist::Spread;
pub use label::{Label, to_json_lines};
pub use rate::Peak;
pub use spec::{AttackKind, AttackSpec, ClassSpec, GeneratorSpec, PartitionBy, SpecError};

use access_format::AccessFormat;
use attack::{Attack, Effect, Lines};
use line::{Clock, Message, Request};
use messages::{MessageFormat, Messages};
use rate::Slots;
use rng::Rng;
use std::net::IpAddr;
use traffic::Traffic;

/// What is known of a generated line besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineMeta {
    /// The time the line carries, in ms; a whole second where the format has no more.
    pub time_ms: u64,
    /// Position of its host.
    pub host: usize,
    /// Its partition.
    pub partition: u32,
    /// The client it speaks of.
    pub client: Option<IpAddr>,
    /// Position of the attack it belongs to, if it belongs to one.
    pub attack: Option<usize>,
}

#[derive(Clone, Debug)]
enum Format {
    Access(AccessFormat),
    Messages(Messages),
}

impl Format {
    fn compile(text: &str) -> Result<Format, SpecError> {
        Ok(match text {
            "nginx-json" => Format::Access(AccessFormat::compile(access_format::NGINX_JSON)?),
            "combined" => Format::Access(AccessFormat::compile(access_format::COMBINED)?),
            "common" => Format::Access(AccessFormat::compile(access_format::COMMON)?),
            "nginx-error" => Format::Messages(Messages::new(MessageFormat::NginxError)),
            "apache-error" => Format::Messages(Messages::new(MessageFormat::ApacheError)),
            "apache-error-2.2" => Format::Messages(Messages::new(MessageFormat::ApacheError22)),
            "app" => Format::Messages(Messages::new(MessageFormat::App)),
            pasted if pasted.contains(['$', '%']) => Format::Access(AccessFormat::compile(pasted)?),
            other => {
                return Err(SpecError::Together(format!(
                    "{other:?} is no format; the formats are {}, or a pasted Nginx log_format or Apache LogFormat string",
                    spec::FORMAT_NAMES.join(", ")
                )));
            }
        })
    }

    fn lines(&self) -> Lines {
        match self {
            Format::Access(format) => Lines::Access { port: format.has_port() },
            Format::Messages(messages) if messages.format() == MessageFormat::App => Lines::App,
            Format::Messages(_) => Lines::Error,
        }
    }

    /// Whether an attack can be seen in its lines.
    fn shows(&self, kind: AttackKind) -> bool {
        let has_request = !matches!(self, Format::Access(access) if !access.has_request());
        has_request && attack::check_format(kind, self.lines(), "").is_ok()
    }
}

/// What is known of a format before anything is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatFacts {
    /// Whether lines name their host.
    pub names_host: bool,
    /// Whether lines are requests; else they are messages.
    pub is_access: bool,
    /// A rate that is usual for such a log, in thousandths of a line per second.
    pub usual_milli_rate: u64,
}

/// Looks at a format: a name or a pasted format string.
pub fn format_facts(format: &str) -> Result<FormatFacts, SpecError> {
    Ok(match Format::compile(format)? {
        Format::Access(format) => {
            FormatFacts { names_host: format.has_host(), is_access: true, usual_milli_rate: 100_000 }
        }
        Format::Messages(messages) => {
            let usual_milli_rate = if messages.format() == MessageFormat::App { 20_000 } else { 2_000 };
            // Nginx's error log names the server with the client.
            let names_host = messages.format() == MessageFormat::NginxError;
            FormatFacts { names_host, is_access: false, usual_milli_rate }
        }
    })
}

impl GeneratorSpec {
    /// The same, without attacks that lines of its format cannot show.
    ///
    /// # Errors
    /// Where there is no such format.
    pub fn only_what_shows(mut self) -> Result<GeneratorSpec, SpecError> {
        let format = Format::compile(&self.format)?;
        self.attacks.retain(|attack| format.shows(attack.kind));
        Ok(self)
    }
}

/// A message class or a heartbeat: when it comes next.
#[derive(Clone, Debug)]
struct Recurring {
    next: u64,
    rng: Rng,
    /// The class, or the host whose heartbeat it is.
    what: Result<ClassSpec, usize>,
    /// Shortest and longest pause, in ns.
    pause: (u64, u64),
}

impl Recurring {
    fn new(rng: Rng, what: Result<ClassSpec, usize>, pause_ms: (u64, u64)) -> Recurring {
        let mut recurring = Recurring { next: 0, rng, what, pause: (pause_ms.0 * 1_000_000, pause_ms.1 * 1_000_000) };
        recurring.next = recurring.rng.below_u64(recurring.pause.1);
        recurring
    }

    fn advance(&mut self) {
        self.next += self.pause.0 + self.rng.below_u64(self.pause.1 - self.pause.0 + 1);
    }
}

/// Which stream the next line beyond base traffic comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Attack(usize),
    Recurring(usize),
}

/// Makes the lines of a [`GeneratorSpec`], in the order of their time.
#[derive(Clone, Debug)]
pub struct Generator {
    format: Format,
    hosts: Vec<String>,
    subjects: Vec<String>,
    traffic: Traffic,
    slots: Slots,
    /// When base traffic's and the others' next lines are due, in ns after the start; the largest number for never.
    base_next: u64,
    side_next: u64,
    side: Side,
    end: u64,
    remaining: u64,
    rng: Rng,
    disorder_rng: Rng,
    attacks: Vec<Attack>,
    /// Positions of the attacks that change base traffic.
    changing: Vec<usize>,
    recurring: Vec<Recurring>,
    request: Request,
    message: Message,
    clock: Clock,
    start_us: u64,
    disorder_us: u64,
    precision_ms: u64,
    partitions: u32,
    partition_by: PartitionBy,
    skew_us: Vec<i64>,
    serial: u64,
}

const NEVER: u64 = u64::MAX;

impl Generator {
    /// A generator of what is specified; refuses what does not go together.
    pub fn new(spec: GeneratorSpec) -> Result<Generator, SpecError> {
        let format = Format::compile(&spec.format)?;
        let lines = format.lines();
        check(&spec, &format)?;
        let mut attacks: Vec<Attack> = Vec::new();
        for (index, attack) in spec.attacks.iter().enumerate() {
            let used = attacks.iter().map(Attack::clients).sum();
            attacks.push(Attack::new(attack, index, &spec, lines, used)?);
        }
        let classes = spec.classes.iter().enumerate().map(|(i, class)| {
            Recurring::new(Rng::new(spec.seed, 0x2000 + i as u64), Ok(class.clone()), (class.min_ms, class.max_ms))
        });
        let beats = spec.heartbeat_ms.into_iter().flat_map(|ms| {
            let seed = spec.seed;
            (0..spec.hosts.len()).map(move |h| Recurring::new(Rng::new(seed, 0x3000 + h as u64), Err(h), (ms, ms)))
        });
        let mut skew_us = vec![0; spec.partitions as usize];
        for (partition, ms) in &spec.skew {
            skew_us[*partition as usize] = ms.saturating_mul(1000);
        }
        let mut generator = Generator {
            recurring: classes.chain(beats).collect(),
            changing: (0..attacks.len()).filter(|i| attacks[*i].changes_traffic()).collect(),
            attacks,
            traffic: Traffic::new(&spec),
            slots: Slots::new(spec.milli_rate, spec.peak),
            base_next: NEVER,
            side_next: NEVER,
            side: Side::Attack(0),
            end: spec.duration_ms.map_or(NEVER, |ms| ms.saturating_mul(1_000_000)),
            remaining: spec.count.unwrap_or(u64::MAX),
            rng: Rng::new(spec.seed, 0),
            disorder_rng: Rng::new(spec.seed, 1),
            request: Request::empty(),
            message: Message::empty(),
            clock: Clock::new(),
            start_us: spec.start.0.saturating_mul(1000),
            disorder_us: spec.disorder_ms.saturating_mul(1000),
            precision_ms: match &format {
                Format::Access(format) => format.precision_ms(),
                Format::Messages(messages) => messages.precision_ms(),
            },
            partitions: spec.partitions,
            partition_by: spec.partition_by,
            skew_us,
            serial: 0,
            subjects: if spec.host_subjects.is_empty() { spec.hosts.clone() } else { spec.host_subjects },
            hosts: spec.hosts,
            format,
        };
        generator.base_next = generator.slots.next(&mut generator.rng).unwrap_or(NEVER);
        generator.find_side();
        Ok(generator)
    }

    /// Names of the hosts, by position.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Lines made so far.
    pub fn lines(&self) -> u64 {
        self.serial
    }

    /// Lines that are left of the count; `None` without a count.
    pub fn remaining(&self) -> Option<u64> {
        (self.remaining != u64::MAX).then_some(self.remaining)
    }

    /// When the next line is due, in ns after the start; `None` at the end.
    pub fn next_due(&self) -> Option<u64> {
        let due = self.base_next.min(self.side_next);
        (self.remaining > 0 && due < self.end && due != NEVER).then_some(due)
    }

    /// What was injected so far, in the order of attacks and clients.
    pub fn labels(&self) -> Vec<Label> {
        let mut labels = Vec::new();
        self.attacks.iter().for_each(|attack| attack.labels(&self.subjects, &mut labels));
        labels
    }

    /// Positions of the attacks of which nothing was injected so far.
    pub fn unseen(&self) -> impl Iterator<Item = usize> {
        (0..self.attacks.len()).filter(|at| self.attacks[*at].is_unseen())
    }

    /// Appends the next line, without a line end; `None` (and nothing appended) at the end.
    pub fn next_line(&mut self, out: &mut Vec<u8>) -> Option<LineMeta> {
        loop {
            let at = self.next_due()?;
            if let Some(meta) =
                if self.base_next <= self.side_next { self.base_line(at, out) } else { self.side_line(at, out) }
            {
                self.serial += 1;
                if self.remaining != u64::MAX {
                    self.remaining -= 1;
                }
                return Some(meta);
            }
        }
    }

    /// A line of base traffic, unless an attack takes it away.
    #[inline]
    fn base_line(&mut self, at: u64, out: &mut Vec<u8>) -> Option<LineMeta> {
        let host = self.rng.below(self.hosts.len() as u32) as usize;
        match &self.format {
            Format::Access(_) => self.traffic.fill(&mut self.rng, &mut self.request),
            Format::Messages(messages) => messages.fill(&mut self.rng, &self.traffic, &mut self.message),
        }
        self.base_next = self.slots.next(&mut self.rng).unwrap_or(NEVER);
        let mut by = None;
        for &i in &self.changing {
            match self.attacks[i].effect(host, at) {
                Effect::None => {}
                Effect::Drop => {
                    self.attacks[i].note(0, (self.start_us + at / 1000) / 1000);
                    return None;
                }
                Effect::Fail => {
                    // Numbers of the attack's own stream, so that base traffic stays the same.
                    let mut rng = Rng::new(at, 0x4000);
                    self.traffic.fail(&mut rng, &mut self.request);
                    by = Some((i, 0));
                }
            }
        }
        Some(self.finish(at, host, by, out))
    }

    fn side_line(&mut self, at: u64, out: &mut Vec<u8>) -> Option<LineMeta> {
        let (host, by) = match self.side {
            Side::Attack(i) => {
                let attack = &mut self.attacks[i];
                let (host, subject) = match &self.format {
                    Format::Access(_) => attack.fill(&self.traffic, &mut self.request),
                    Format::Messages(_) => (attack.fill_message(&self.traffic, &mut self.message), Some(0)),
                };
                attack.advance();
                (host, subject.map(|subject| (i, subject)))
            }
            Side::Recurring(i) => {
                let recurring = &mut self.recurring[i];
                let host = match &recurring.what {
                    Ok(_) => recurring.rng.below(self.hosts.len() as u32) as usize,
                    Err(host) => *host,
                };
                match (&self.format, &recurring.what) {
                    (Format::Messages(messages), Ok(class)) => {
                        messages.fill_class(&mut recurring.rng, &mut self.message, class.level, &class.message);
                    }
                    (Format::Messages(messages), Err(_)) => {
                        messages.fill_class(&mut recurring.rng, &mut self.message, "info", "heartbeat");
                        self.message.logger = "heartbeat";
                    }
                    (Format::Access(_), _) => {
                        let r = &mut self.request;
                        r.clear();
                        r.set_target(b"/healthz", b"");
                        (r.client, r.agent) = (IpAddr::from([10, 0, 0, 10]), "kube-probe/1.30");
                        self.traffic.answer(&mut recurring.rng, r, 200, site::Pace::Static, 2);
                    }
                }
                recurring.advance();
                (host, None)
            }
        };
        self.find_side();
        // A silent host writes nothing at all.
        for &i in &self.changing {
            if self.attacks[i].effect_on_others(host, at) {
                self.attacks[i].note(0, (self.start_us + at / 1000) / 1000);
                return None;
            }
        }
        Some(self.finish(at, host, by, out))
    }

    /// Gives the line its time and partition and writes it.
    #[inline]
    fn finish(&mut self, at: u64, host: usize, by: Option<(usize, usize)>, out: &mut Vec<u8>) -> LineMeta {
        let partition = match self.partition_by {
            _ if self.partitions == 1 => 0,
            PartitionBy::Host => host as u32 % self.partitions,
            PartitionBy::RoundRobin => (self.serial % u64::from(self.partitions)) as u32,
        };
        let mut time_us = self.start_us + at / 1000;
        if self.disorder_us > 0 && self.disorder_rng.chance(100_000) {
            time_us = self.start_us.max(time_us.saturating_sub(self.disorder_rng.below_u64(self.disorder_us + 1)));
        }
        time_us = time_us.saturating_add_signed(self.skew_us[partition as usize]);
        let time_ms = time_us / 1000 - time_us / 1000 % self.precision_ms;
        self.clock.set(time_ms);
        let name = &self.hosts[host];
        let client = match &self.format {
            Format::Access(format) => {
                format.write(out, &self.request, name, time_us, &self.clock, self.serial);
                Some(self.request.client)
            }
            Format::Messages(messages) => {
                messages.write(out, &self.message, name, time_us, &self.clock, self.serial);
                self.message.client
            }
        };
        if let Some((attack, subject)) = by {
            self.attacks[attack].note(subject, time_ms);
        }
        LineMeta { time_ms, host, partition, client, attack: by.map(|(attack, _)| attack) }
    }

    fn find_side(&mut self) {
        self.side_next = NEVER;
        let attacks = self.attacks.iter().enumerate().map(|(i, a)| (a.next().unwrap_or(NEVER), Side::Attack(i)));
        let recurring = self.recurring.iter().enumerate().map(|(i, r)| (r.next, Side::Recurring(i)));
        for (next, side) in attacks.chain(recurring) {
            if next < self.side_next {
                (self.side_next, self.side) = (next, side);
            }
        }
    }
}

/// Refuses what does not go together.
fn check(spec: &GeneratorSpec, format: &Format) -> Result<(), SpecError> {
    let refuse = |text: String| Err(SpecError::Together(text));
    if let Format::Access(access) = format {
        if let Some(class) = spec.classes.first() {
            return refuse(format!(
                "message classes are for error and application logs, and {:?} is an access log; leave {:?} out, or use \
                 nginx-error, apache-error or app",
                spec.format, class.name
            ));
        }
        if !spec.attacks.is_empty() && !access.has_request() {
            return refuse(format!(
                "attacks cannot be seen in the format {:?}: it needs client, request and status, for example \
                 $remote_addr, $request and $status",
                spec.format
            ));
        }
    }
    if spec.hosts.is_empty() || spec.hosts.len() > 10_000 {
        return refuse(format!("{} hosts: there must be 1 to 10000", spec.hosts.len()));
    }
    if spec.clients == 0 || spec.status_mix.iter().all(|(_, w)| *w == 0) {
        return refuse("there must be at least one client and one status with a weight above 0".to_owned());
    }
    if spec.partitions == 0 || spec.partitions > 100_000 {
        return refuse(format!("{} partitions: there must be 1 to 100000", spec.partitions));
    }
    if let Some((partition, _)) = spec.skew.iter().find(|(p, _)| *p >= spec.partitions) {
        return refuse(format!(
            "there is no partition {partition} to skew: the partitions are 0 to {}",
            spec.partitions - 1
        ));
    }
    if spec.milli_rate == 0
        && spec.peak.is_none()
        && spec.attacks.is_empty()
        && spec.classes.is_empty()
        && spec.heartbeat_ms.is_none()
    {
        return refuse("a rate of 0 generates nothing; write lines per second, for example --rate 100".to_owned());
    }
    if spec.start.0.saturating_add(spec.duration_ms.unwrap_or(0)) > tidewatch_events::time::EventTime::MAX.0 {
        return refuse("the times generated must lie before the year 10000".to_owned());
    }
    Ok(())
}
