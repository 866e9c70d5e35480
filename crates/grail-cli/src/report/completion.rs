//! Says when a window of a network is finished, given which roles report to it.

use super::{Report, WindowRow};

/// What a finished window needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Whether a trainer reports here.
    pub with_trainer: bool,
    /// Whether every checkpoint is evaluated.
    pub every_window_is_evaluated: bool,
}

impl Completion {
    /// Returns the finished windows, ascending.
    ///
    /// A trainer takes the newest validated window, so one that it passed over is finished as soon
    /// as a later one is trained.
    pub fn finished<'a>(&self, report: &'a Report) -> impl Iterator<Item = &'a WindowRow> {
        let newest_trained = report.windows.iter().rev().find(|row| self.is_trained(row));
        let newest_trained = newest_trained.map(|row| row.window);
        let with_trainer = self.with_trainer;
        report.windows.iter().filter(move |row| {
            row.validated && (!with_trainer || newest_trained >= Some(row.window))
        })
    }

    fn is_trained(&self, row: &WindowRow) -> bool {
        let evaluated = row.pass_at_1.is_some() || !self.every_window_is_evaluated;
        row.trained && (evaluated || row.steps == Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{TestRoster, judged, report, trained};
    use super::*;

    const ALL: Completion = Completion { with_trainer: true, every_window_is_evaluated: true };

    fn finished(completion: Completion, report: &Report) -> Vec<u64> {
        completion.finished(report).map(|row| row.window).collect()
    }

    #[test]
    fn a_window_is_finished_when_judged_trained_and_measured() {
        let mut report = report();
        let mut steps = Vec::new();
        for entry in [
            judged::window(30, 32, 0.5),
            trained::window(30, 2, 0.1),
            trained::evaluated(60, 0.4),
            judged::window(60, 32, 0.5),
            judged::window(90, 32, 0.5),
            // The trainer was busy and passes over window 60.
            trained::window(90, 2, 0.1),
            trained::evaluated(120, 0.5),
            judged::window(120, 0, 0.0),
            trained::window(120, 0, 0.0),
        ] {
            report.apply(&entry, &TestRoster);
            steps.push(finished(ALL, &report));
        }
        let expected: [&[u64]; 9] = [
            &[],
            &[],
            &[30],
            &[30],
            &[30],
            &[30],
            &[30, 60, 90],
            &[30, 60, 90],
            &[30, 60, 90, 120],
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_trainer_in_another_process_is_not_waited_for() {
        let mut report = report();
        report.apply(&judged::uploaded(30, 2, 10, 1.0), &TestRoster);
        assert_eq!(finished(Completion { with_trainer: false, ..ALL }, &report), [0; 0]);
        report.apply(&judged::window(30, 32, 0.5), &TestRoster);
        assert_eq!(finished(Completion { with_trainer: false, ..ALL }, &report), [30]);
    }
}
