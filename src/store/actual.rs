//! Paths whose names are no UTF-8, found by their lossy text.
//!
//! Names travel as text: in requests, in pictures, in JSON. What is no UTF-8 is U+FFFD there, and a name with
//! it means the only file that reads so.

use std::path::{Component, Path, PathBuf};

/// The path that is there for `path`, in which bytes may have become U+FFFD; `path` itself when there is none,
/// or more than one.
pub fn actual(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    let lossy = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains('\u{fffd}');
    if path.exists() || !path.components().any(|part| lossy(&part)) {
        return path.to_path_buf();
    }
    found(path).unwrap_or_else(|| path.to_path_buf())
}

fn found(path: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for part in path.components() {
        let next = whole.join(part);
        whole = if std::fs::symlink_metadata(&next).is_ok() {
            next
        } else {
            let folder = if whole.as_os_str().is_empty() { Path::new(".") } else { &whole };
            let wanted = part.as_os_str().to_string_lossy();
            let items = std::fs::read_dir(folder).ok()?.flatten().map(|item| item.file_name());
            let mut alike = items.filter(|name| name.to_string_lossy() == wanted);
            let name = alike.next().filter(|_| alike.next().is_none())?;
            whole.join(name)
        };
    }
    Some(whole)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn text_leads_to_names_that_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let raw =
            folder.path().join(OsStr::from_bytes(b"a\xff")).join(OsStr::from_bytes(b"\xfe.x"));
        std::fs::create_dir(raw.parent().unwrap()).unwrap();
        std::fs::write(&raw, "").unwrap();
        let text = raw.to_string_lossy().into_owned();
        assert_eq!(actual(&text), raw);
        assert_eq!(actual(&raw), raw);
        std::fs::write(raw.with_file_name(OsStr::from_bytes(b"\xfd.x")), "").unwrap();
        assert_eq!(actual(&text), Path::new(&text), "two read so");
        assert_eq!(actual("none\u{fffd}"), Path::new("none\u{fffd}"));
    }
}
