//! Examines a whole file for a person: every check with its numbers, past the first violation.
//!
//! A validator stops where a file is void ([`judge`](crate::validation::pipeline::judge)). Whoever
//! wants to know why needs the rest as well, and the same verdict.

use grail_ports::model::{ModelError, StopFlag};
use grail_protocol::codec::DecodeError;
use grail_protocol::constants::{ROLLOUT_FILE_BYTES_MAX, ROLLOUT_FILE_VERSION, ROLLOUTS_PER_GROUP};
use grail_protocol::ids::{Hotkey, TokenId};
use grail_protocol::rollout::{DecodedFile, FileHeader, Group, RawRollouts, UnsignedContent};
use grail_protocol::sampling::choose_groups;
use grail_protocol::verifier::{
    ExpectedContext, HeaderField, Rejection, Statistic, StructuredFile, check_opened,
    compare_headers, open_file,
};

use super::{CheckOutcome, CheckReport, Fault, GroupReport, checks, examine_group};
use crate::validation::pipeline::{Bench, expected};

/// Names of the checks of a file, in the order in which they decide.
pub mod file_checks {
    /// The file is not larger than a file may be.
    pub const SIZE: &str = "size";
    /// Its bytes are the one encoding of a rollout file.
    pub const FRAME: &str = "frame";
    /// Header: the network.
    pub const NETWORK: &str = "header.network";
    /// Header: the subnet.
    pub const NETUID: &str = "header.netuid";
    /// Header: the window.
    pub const WINDOW: &str = "header.window";
    /// Header: the owner of the bucket.
    pub const HOTKEY: &str = "header.hotkey";
    /// Header: the checkpoint's digest.
    pub const CHECKPOINT: &str = "header.checkpoint";
    /// Header: the environment and its parameters.
    pub const ENVIRONMENT: &str = "header.environment";
    /// Header: temperature and token limit.
    pub const SAMPLER: &str = "header.sampler";
    /// Header: the tokenizer's digest.
    pub const TOKENIZER: &str = "header.tokenizer";
    /// Header: the numeric contract.
    pub const NUMERICS: &str = "header.numerics";
    /// Header: rollouts in a group.
    pub const ROLLOUTS_PER_GROUP: &str = "header.rollouts_per_group";
    /// The body is sealed to the beacon round of the window's deadline.
    pub const SEAL: &str = "seal";
    /// The header's hotkey signed the root.
    pub const SIGNATURE: &str = "signature";
    /// The signature of the seal's round opens the body.
    pub const OPENING: &str = "opening";
    /// The body is the one encoding of groups.
    pub const CONTENT: &str = "content";
    /// The content has the signed root.
    pub const ROOT: &str = "root";
    /// Groups are 0, 1, 2 and so on.
    pub const CONTIGUITY: &str = "contiguity";
    /// Every group has all of its rollouts.
    pub const GROUP_SIZE: &str = "group_size";
    /// The model knows every token.
    pub const TOKENS: &str = "tokens";
    /// Completions end where the race ends them.
    pub const TERMINATION: &str = "termination";
    /// The model can attend to every prompt with its completion.
    pub const LENGTH: &str = "length";

    /// Which groups are recomputed.
    pub const CHOICE: &str = "choice";
    /// The prompt of a group is the one of this miner's problem.
    pub const PROMPT: &str = "prompt";

    /// Those that need no model.
    pub const ALL: [&str; 22] = [
        SIZE,
        FRAME,
        NETWORK,
        NETUID,
        WINDOW,
        HOTKEY,
        CHECKPOINT,
        ENVIRONMENT,
        SAMPLER,
        TOKENIZER,
        NUMERICS,
        ROLLOUTS_PER_GROUP,
        SEAL,
        SIGNATURE,
        OPENING,
        CONTENT,
        ROOT,
        CONTIGUITY,
        GROUP_SIZE,
        TOKENS,
        TERMINATION,
        LENGTH,
    ];
}

/// Everything found about a file.
#[derive(Debug)]
pub struct FileReport {
    /// What the file says that it is about; nothing if it could not be read.
    pub header: Option<FileHeader>,
    /// Groups in the file; 0 if it could not be read.
    pub groups_in_file: u32,
    /// Rollouts in the file; 0 if it could not be read.
    pub rollouts_in_file: u32,
    /// Every one of [`file_checks::ALL`], in order.
    pub checks: Vec<CheckReport>,
    /// The violation that keeps the file from being recomputed.
    pub rejection: Option<Rejection>,
    /// The file, where there is no such violation.
    pub file: Option<StructuredFile>,
    /// The groups that a validator recomputes, ascending.
    pub chosen: Vec<u32>,
    /// What was found about each examined group, ascending.
    pub groups: Vec<ExaminedGroup>,
}

/// A group that was recomputed, or that we could not recompute.
#[derive(Clone, Debug, PartialEq)]
pub struct ExaminedGroup {
    /// The group.
    pub index: u32,
    /// Its rollouts.
    pub rollouts: u32,
    /// What was found, or why our model could not tell.
    pub found: Result<GroupReport, ModelError>,
}

/// Runs every check that needs no model.
pub fn examine_file(bench: &Bench, hotkey: Hotkey, bytes: &[u8]) -> FileReport {
    let expected = expected(bench, hotkey);
    let decoded = RawRollouts::new(bytes).and_then(RawRollouts::decode).ok();
    let header = decoded.as_ref().map(|file| file.header().clone());
    let seal_round = decoded.as_ref().and_then(DecodedFile::seal_round);
    let mut content = None;
    let structured = open_file(bytes, &expected).and_then(|opened| {
        content = Some(Content::of(opened.groups(), &expected));
        check_opened(opened, &expected)
    });
    let (rejection, file) = match structured {
        Ok(file) => (None, Some(file)),
        Err(rejection) => (Some(rejection), None),
    };
    let chosen = file.as_ref().map(|file| {
        let groups = u32::try_from(file.groups().len()).unwrap_or(u32::MAX);
        choose_groups(bench.challenge, hotkey, groups, bench.groups_checked_max)
    });
    let subject =
        Subject { bytes, header: header.as_ref(), seal_round, content, expected: &expected };
    let checks = subject.checks(rejection.as_ref());
    let counts = subject.content.map_or((0, 0), |content| (content.groups, content.rollouts));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    FileReport {
        groups_in_file: count(counts.0),
        rollouts_in_file: count(counts.1),
        header,
        checks,
        rejection,
        file,
        chosen: chosen.unwrap_or_default(),
        groups: Vec::new(),
    }
}

/// Returns the group at this place of a file that may break any rule, as far as it can be read.
pub fn unchecked_group(bench: &Bench, hotkey: Hotkey, bytes: &[u8], index: u32) -> Option<Group> {
    let opened = open_file(bytes, &expected(bench, hotkey)).ok()?;
    opened.groups().get(usize::try_from(index).ok()?).cloned()
}

impl FileReport {
    /// Recomputes groups and keeps what was found; a group that is not there is left out. Blocks.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] alone: every other failure of ours is told of its group.
    pub fn examine_groups(
        &mut self,
        bench: &Bench,
        wanted: &[u32],
        stop: &StopFlag,
    ) -> Result<(), ModelError> {
        let Some(file) = &self.file else { return Ok(()) };
        for &index in wanted {
            let Some(group) = usize::try_from(index).ok().and_then(|at| file.groups().get(at))
            else {
                continue;
            };
            let found = match examine_group(bench, file.header(), group, stop) {
                Err(ModelError::Stopped) => return Err(ModelError::Stopped),
                found => found,
            };
            self.groups.push(ExaminedGroup { index, rollouts: ROLLOUTS_PER_GROUP, found });
        }
        Ok(())
    }

    /// Returns the violation that voids the file as a validator names it, among what was examined:
    /// the file's own, then the prompts of all groups, then the groups in order.
    pub fn first_violation(&self) -> Option<&Rejection> {
        let reports = || self.groups.iter().filter_map(|group| group.found.as_ref().ok());
        let in_groups = || {
            reports().find_map(|report| match report.first_fault()? {
                Fault::Violation(rejection) => Some(rejection),
                Fault::Undecided(_) => None,
            })
        };
        let prompts = || reports().find_map(|report| report.prompt.as_ref());
        self.rejection.as_ref().or_else(prompts).or_else(in_groups)
    }

    /// Returns the group `index` of the file, where it can be recomputed.
    pub fn group(&self, index: u32) -> Option<&Group> {
        self.file.as_ref()?.groups().get(usize::try_from(index).ok()?)
    }
}

/// What can be measured of the groups as they stand in the file.
struct Content {
    groups: usize,
    rollouts: usize,
    /// Largest token id.
    token_max: Option<TokenId>,
    /// Longest completion.
    completion_max: usize,
    /// Longest prompt with its completion.
    sequence_max: usize,
    /// Completions that end with an end token.
    ended: usize,
}

impl Content {
    fn of(groups: &[Group], expected: &ExpectedContext) -> Self {
        let rollouts = || groups.iter().flat_map(|group| &group.rollouts);
        let ends = |tokens: &[TokenId]| {
            tokens.last().is_some_and(|token| expected.eos_token_ids.contains(token))
        };
        let prompts = groups.iter().flat_map(|group| &group.prompt);
        let completions = rollouts().flat_map(|rollout| &rollout.tokens);
        let longest = |group: &Group| {
            let longest = group.rollouts.iter().map(|rollout| rollout.tokens.len()).max();
            group.prompt.len() + longest.unwrap_or(0)
        };
        Self {
            groups: groups.len(),
            rollouts: rollouts().count(),
            token_max: prompts.chain(completions).copied().max(),
            completion_max: rollouts().map(|rollout| rollout.tokens.len()).max().unwrap_or(0),
            sequence_max: groups.iter().map(longest).max().unwrap_or(0),
            ended: rollouts().filter(|rollout| ends(&rollout.tokens)).count(),
        }
    }
}

/// A file as far as it could be read, and what it is held against.
struct Subject<'a> {
    bytes: &'a [u8],
    header: Option<&'a FileHeader>,
    seal_round: Option<u64>,
    content: Option<Content>,
    expected: &'a ExpectedContext,
}

/// What a check says unless it is the one that breaks the file.
struct Finding {
    check: &'static str,
    measured: Option<f64>,
    threshold: Option<f64>,
    /// The finding in words.
    detail: String,
    /// Whether it was made wherever the file breaks, and what of: the fields of a readable header
    /// are all compared.
    does_field_hold: Option<bool>,
}

impl Finding {
    fn new(check: &'static str, detail: String) -> Self {
        Self { check, measured: None, threshold: None, detail, does_field_hold: None }
    }

    fn numbers(self, measured: Option<f64>, threshold: Option<f64>) -> Self {
        Self { measured, threshold, ..self }
    }
}

impl Subject<'_> {
    /// Returns every check: those before the one that breaks the file passed, those after it were
    /// not reached.
    fn checks(&self, rejection: Option<&Rejection>) -> Vec<CheckReport> {
        let broken = rejection.map(check_of);
        let mut is_reached = true;
        let report = |finding: Finding| {
            let Finding { check, measured, threshold, detail, does_field_hold } = finding;
            let is_broken = broken == Some(check);
            let (outcome, detail) = match (does_field_hold, rejection) {
                (_, Some(rejection)) if is_broken => (CheckOutcome::Failed, rejection.to_string()),
                (Some(false), _) => (CheckOutcome::Failed, detail),
                (Some(true), _) => (CheckOutcome::Passed, detail),
                _ if is_reached => (CheckOutcome::Passed, detail),
                _ => (CheckOutcome::NotRun, VOID.to_owned()),
            };
            is_reached &= !is_broken;
            CheckReport { check, outcome, measured, threshold, detail }
        };
        self.findings().into_iter().map(report).collect()
    }

    /// Returns what every check says, in the order of [`file_checks::ALL`].
    fn findings(&self) -> Vec<Finding> {
        let Self { bytes, expected, .. } = self;
        let frame = format!("a rollout file of version {ROLLOUT_FILE_VERSION}");
        let mut findings = vec![
            Finding::new(file_checks::SIZE, format!("{} bytes", bytes.len()))
                .numbers(number(bytes.len()), number_u64(ROLLOUT_FILE_BYTES_MAX)),
            Finding::new(file_checks::FRAME, frame),
        ];
        findings.extend(self.fields());
        findings.push(Finding::new(
            file_checks::SEAL,
            match self.seal_round {
                Some(round) => format!("sealed to beacon round {round}"),
                None => "not sealed".to_owned(),
            },
        ));
        let signer = &expected.header.hotkey;
        findings.push(Finding::new(file_checks::SIGNATURE, format!("signed by {signer}")));
        findings.push(Finding::new(
            file_checks::OPENING,
            match self.seal_round {
                Some(round) => format!("the signature of round {round} opens the body"),
                None => "the body is open".to_owned(),
            },
        ));
        findings.extend(self.in_content());
        findings
    }

    /// Returns the fields of the header, each beside the expected one.
    fn fields(&self) -> Vec<Finding> {
        let Self { header, expected, .. } = self;
        let found = header.unwrap_or(&expected.header);
        let fields = compare_headers(found, expected).into_iter().map(|it| {
            let detail = match it.found == it.expected {
                true => it.found,
                false if it.holds => format!("{}, judged by another profile", it.found),
                false => format!("{}, expected {}", it.found, it.expected),
            };
            let does_field_hold = header.map(|_| it.holds);
            Finding { does_field_hold, ..Finding::new(check_of_field(it.field), detail) }
        });
        fields.collect()
    }

    /// Returns the checks of the groups, without numbers where there are none to measure.
    fn in_content(&self) -> Vec<Finding> {
        let content = self.content.as_ref();
        let measured = |of: fn(&Content) -> Option<f64>| content.and_then(of);
        let (groups, rollouts) = content.map_or((0, 0), |it| (it.groups, it.rollouts));
        let ended = content.map_or(0, |it| it.ended);
        let limit = self.expected.header.sampler.max_new_tokens;
        vec![
            Finding::new(file_checks::CONTENT, format!("{rollouts} rollouts in {groups} groups")),
            Finding::new(file_checks::ROOT, "the content has the signed root".to_owned()),
            Finding::new(file_checks::CONTIGUITY, match groups.checked_sub(1) {
                Some(last) => format!("{groups} groups, 0 to {last}"),
                None => "no groups".to_owned(),
            }),
            Finding::new(
                file_checks::GROUP_SIZE,
                format!("{ROLLOUTS_PER_GROUP} rollouts in each of {groups} groups"),
            ),
            Finding::new(file_checks::TOKENS, "largest token id".to_owned()).numbers(
                measured(|it| it.token_max.map(f64::from)),
                self.expected.vocab_size.checked_sub(1).map(f64::from),
            ),
            Finding::new(
                file_checks::TERMINATION,
                format!(
                    "tokens of the longest completion; {ended} of {rollouts} end with an end token, \
                     the others are full"
                ),
            )
            .numbers(measured(|it| number(it.completion_max)), Some(f64::from(limit))),
            Finding::new(
                file_checks::LENGTH,
                "tokens of the longest prompt with its completion".to_owned(),
            )
            .numbers(
                measured(|it| number(it.sequence_max)),
                Some(f64::from(self.expected.sequence_tokens_max)),
            ),
        ]
    }
}

/// Why a check was not run.
const VOID: &str = "not reached: an earlier check voids the file";

/// Returns the check that a violation belongs to.
pub fn check_of(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Malformed(DecodeError::TooLarge { .. }) => file_checks::SIZE,
        Rejection::Malformed(_) => file_checks::FRAME,
        Rejection::HeaderMismatch { field, .. } => check_of_field(*field),
        Rejection::WrongSeal { .. } => file_checks::SEAL,
        Rejection::SealBroken(_) => file_checks::OPENING,
        Rejection::MalformedGroups(_) => file_checks::CONTENT,
        Rejection::Unsigned(UnsignedContent::BadSignature(_)) => file_checks::SIGNATURE,
        Rejection::Unsigned(UnsignedContent::RootMismatch { .. }) => file_checks::ROOT,
        Rejection::GroupsNotContiguous { .. } => file_checks::CONTIGUITY,
        Rejection::WrongGroupSize { .. } => file_checks::GROUP_SIZE,
        Rejection::UnknownToken { .. } => file_checks::TOKENS,
        Rejection::BadTermination { .. } => file_checks::TERMINATION,
        Rejection::SequenceTooLong { .. } => file_checks::LENGTH,
        Rejection::PromptMismatch { .. } => file_checks::PROMPT,
        Rejection::HiddenStateMismatch { .. } => checks::HIDDEN_STATES,
        Rejection::RaceLost { .. } => checks::RACE,
        Rejection::MarginVeto { .. } => checks::MARGIN_VETO,
        Rejection::EvidenceExceeded { statistic, .. } => match statistic {
            Statistic::SketchSum => checks::SKETCH_SUM,
            Statistic::MarginSum => checks::MARGIN_SUM,
            Statistic::SoftHits => checks::SOFT_HITS,
        },
        Rejection::RewardMismatch { .. } => checks::REWARD,
    }
}

fn check_of_field(field: HeaderField) -> &'static str {
    match field {
        HeaderField::Network => file_checks::NETWORK,
        HeaderField::Netuid => file_checks::NETUID,
        HeaderField::Window => file_checks::WINDOW,
        HeaderField::Hotkey => file_checks::HOTKEY,
        HeaderField::Checkpoint => file_checks::CHECKPOINT,
        HeaderField::Environment => file_checks::ENVIRONMENT,
        HeaderField::Sampler => file_checks::SAMPLER,
        HeaderField::Tokenizer => file_checks::TOKENIZER,
        HeaderField::Numerics => file_checks::NUMERICS,
        HeaderField::GroupSize => file_checks::ROLLOUTS_PER_GROUP,
    }
}

/// Returns `n` as a number to show; nothing beyond what 32 bits hold, which no file reaches.
fn number(n: usize) -> Option<f64> {
    u32::try_from(n).ok().map(f64::from)
}

fn number_u64(n: u64) -> Option<f64> {
    u32::try_from(n).ok().map(f64::from)
}
