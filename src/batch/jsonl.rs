//! JSON lines: an object a line, a job's keys beside those of the batch; or what `colora … --json` printed.

use super::draft::Draft;
use super::text::Read;
use crate::app::flat;
use crate::error::{Error, LineError, Result};
use serde_json::{Map, Value};

/// Most characters of a line that an error shows.
const EXCERPT: usize = 60;

/// Reads JSON lines.
pub(super) fn read(text: &str) -> Read {
    let mut read = Read::default();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match draft(line, at + 1) {
            Ok(draft) => read.drafts.push(draft),
            Err(error) => read.mistakes.push(LineError::new(at + 1, error)),
        }
    }
    read
}

/// The job of a line.
fn draft(line: &str, number: usize) -> Result<Draft> {
    let excerpt: String = line.chars().take(EXCERPT).collect();
    let value = serde_json::from_str::<Value>(line);
    let value = value.map_err(|error| {
        Error::bad_request("line", &excerpt, format!("this is no JSON: {error}"))
    })?;
    let Value::Object(mut map) = value else {
        return Err(Error::bad_request("line", excerpt, "expected a JSON object"));
    };
    if map.contains_key("request") {
        map = printed(map)?;
    }
    let mut draft = Draft::new(number);
    map.into_iter().try_for_each(|(key, value)| draft.set(&key, value))?;
    Ok(draft)
}

/// The keys of a printed line that belong to the job.
const OF_JOB: [&str; 4] = ["schema", "model", "made_with", "request"];

/// The keys of the job behind a line that was printed, or a record of a picture.
fn printed(mut map: Map<String, Value>) -> Result<Map<String, Value>> {
    let is_job = |event: &Value| matches!(event.as_str(), Some("saved" | "job"));
    if let Some(event) = map.get("event").filter(|event| !is_job(event)) {
        let why = "expected a line about a saved picture or a job";
        return Err(Error::bad_request("event", event, why));
    }
    if map.contains_key("schema") {
        map.retain(|key, _| OF_JOB.contains(&key.as_str()));
    }
    flat(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_printed_lines() {
        let text = r#"{"prompt": "a fox", "steps": 4, "id": "fox", "labels": {"set": 1}}

{"schema":1,"event":"saved","path":"x.png","index":0,"seed":3,"width":64,"height":64,"model":"starter","timings":{},"sha256":"0","request":{"prompt":"b","seed":3}}
"#;
        let read = read(text);
        assert!(read.mistakes.is_empty(), "{:?}", read.mistakes);
        assert_eq!(read.drafts[0].id.as_deref(), Some("fox"));
        assert_eq!(read.drafts[0].labels["set"], "1");
        let printed = &read.drafts[1];
        assert_eq!((printed.line, &printed.values["prompt"]), (3, &"b".into()));
        assert_eq!(
            (&printed.values["model"], &printed.values["seed"]),
            (&"starter".into(), &3.into())
        );
    }

    #[test]
    fn mistakes_name_line_and_field() {
        let text = "{\"promt\": \"x\"}\n[1]\n{\"steps\": \"many\"}\n{\n{\"event\":\"step\",\"request\":{}}\n{\"steps\": {}}";
        let read = read(text);
        let lines: Vec<usize> = read.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!((lines, read.drafts.len()), (vec![1, 2, 3, 4, 5, 6], 0));
        let first = read.mistakes[0].error.to_string();
        assert!(first.contains("promt") && first.contains("`prompt`"), "{first}");
        assert!(read.mistakes[2].error.to_string().contains("steps = many"));
    }
}
