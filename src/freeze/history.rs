//! The reports of the last runs, in the state directory. A file that cannot be read is replaced by the next report.

use super::error::FreezeError;
use super::report::Report;
use crate::state::{MAX_SIZE, StateDir};
use crate::sys::strerror;
use std::io;

pub const MAX_REPORTS: usize = 20;

/// Newest first, and one line on why the file cannot be read, if so. A missing file has no reports.
pub fn read(state: &StateDir) -> (Vec<Report>, Option<String>) {
    let path = state.reports();
    let unreadable = |why: String| {
        let text = format!(
            "the reports in {} cannot be read: {why}; a new history is started",
            path.display()
        );
        (Vec::new(), Some(text))
    };
    match state.read_reports() {
        Ok(Some(text)) => match serde_json::from_slice(&text) {
            Ok(reports) => (reports, None),
            Err(error) => unreadable(error.to_string()),
        },
        Ok(None) => (Vec::new(), None),
        Err(error) => unreadable(strerror(&error)),
    }
}

/// Replaces one of the same run. If this fails, only this process has the report; nothing else depends on it.
pub fn store(state: &StateDir, report: &Report) -> Result<(), FreezeError> {
    let (mut reports, wrong) = read(state);
    if let Some(text) = wrong {
        tracing::warn!("{text}");
    }
    reports.retain(|kept| kept.id != report.id);
    reports.insert(0, report.clone());
    reports.truncate(MAX_REPORTS);
    let mut json = serde_json::to_vec(&reports);
    // read_reports refuses a longer file.
    while reports.len() > 1 && json.as_ref().is_ok_and(|json| json.len() as u64 > MAX_SIZE) {
        reports.pop();
        json = serde_json::to_vec(&reports);
        tracing::warn!(
            "reports are long, so only those of the last {} runs are kept",
            reports.len()
        );
    }
    json.map_err(io::Error::from)
        .and_then(|json| state.write_reports(json))
        .map_err(|error| FreezeError::Report(state.reports(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_last_runs_are_kept_the_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        for number in 0..MAX_REPORTS + 5 {
            let id = number.to_string();
            store(
                &state,
                &Report {
                    id,
                    ..Report::default()
                },
            )
            .unwrap();
        }
        let again = Report {
            id: "24".into(),
            started: 7.0,
            ..Report::default()
        };
        store(&state, &again).unwrap();
        let (reports, wrong) = read(&state);
        assert_eq!((reports.len(), wrong), (MAX_REPORTS, None));
        assert_eq!((reports[0].started, reports[19].id.as_str()), (7.0, "5"));
    }

    #[test]
    fn long_reports_are_fewer_and_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        for number in 0..MAX_REPORTS {
            let report = Report {
                id: number.to_string(),
                errors: vec!["x".repeat(1 << 20)],
                ..Report::default()
            };
            store(&state, &report).unwrap();
        }
        let (reports, wrong) = read(&state);
        assert_eq!((reports.len(), wrong), (15, None));
        assert_eq!(reports[0].id, "19");
    }

    #[test]
    fn a_torn_file_is_told_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        fs::write(state.reports(), "[{\"id\":").unwrap();
        let (reports, wrong) = read(&state);
        assert!(reports.is_empty() && wrong.unwrap().contains("new history"));
        store(&state, &Report::default()).unwrap();
        assert_eq!(read(&state).0.len(), 1);
        let gone = StateDir::new(dir.path().join("none"));
        assert!(
            store(&gone, &Report::default())
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }
}
