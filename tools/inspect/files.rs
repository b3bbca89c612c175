//! Every file below a folder of the data directory, read through what writes nothing.

use std::{io, sync::Arc};

use braidlog::platform::{File, Open, RelPath, Vfs};

/// Is given every file, or a folder without one.
type Visit<'a> = dyn FnMut(&RelPath, Option<Arc<dyn File>>) -> io::Result<()> + 'a;

/// Gives every file below a folder to `visit`, and every folder before what is in it, without a file.
/// What is gone when it is looked at is left out: a running store takes files away.
pub(crate) fn walk(vfs: &dyn Vfs, folder: &RelPath, visit: &mut Visit<'_>) -> io::Result<()> {
    let names = match vfs.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return match vfs.open(folder, Open::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                file => visit(folder, Some(file?)),
            };
        }
        names => names?,
    };
    visit(folder, None)?;
    for name in names {
        let path = match folder.as_str() {
            RelPath::ROOT => RelPath::new(name),
            folder => RelPath::new(format!("{folder}/{name}")),
        };
        walk(vfs, &path, visit)?;
    }
    Ok(())
}
