//! The container this process runs in, if any: its log must never be followed.
//!
//! An agent that sends its own log makes a line of each line. The id is found in the texts of
//! /proc/self/cgroup (version 1, or 2 without a namespace) and /proc/self/mountinfo (where
//! engines mount hosts, hostname and resolv.conf from the container's directory). The search is
//! pure; [`read`] does the I/O once, at the start of `docker-ctl`.

use super::inspect::is_id;

/// Files that engines mount into each container from its own directory.
const MOUNTED: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The id of our own container; None outside of one, or when it cannot be told.
pub fn read() -> Option<String> {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    own_id(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"))
}

fn own_id(cgroup: &str, mountinfo: &str) -> Option<String> {
    from_mountinfo(mountinfo).or_else(|| from_cgroup(cgroup))
}

/// A line: id parent major:minor root mount-point options...
fn from_mountinfo(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let mut parents = root.rsplit('/').skip(1);
        let (id, above) = (parents.next()?, parents.next()?);
        let own = MOUNTED.contains(&mount_point) && above == "containers" && is_id(id);
        own.then(|| id.to_owned())
    })
}

/// A line: number:controllers:path. The innermost id is ours: an engine may run in a container.
fn from_cgroup(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let parts = path.rsplit('/').map(|part| {
            // systemd's driver: docker-<id>.scope
            let part = part.strip_suffix(".scope").unwrap_or(part);
            part.rsplit('-').next().unwrap_or(part)
        });
        parts.into_iter().find(|part| is_id(part)).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "8b224630a40411d17368a51b7b5ad567adea9a2266a38392a32d7d6614534b6f";
    const B: &str = "f451fad7e291445ec65c5159cf7446fffbe3e5f86623c1fa87fa17e39a50b193";

    fn check(cgroup: &str, mountinfo: &str, id: Option<&str>) {
        assert_eq!(own_id(cgroup, mountinfo).as_deref(), id, "{cgroup:?} {mountinfo:?}");
    }

    #[test]
    fn the_id_is_found_under_each_cgroup_driver() {
        check(&format!("12:pids:/docker/{A}\n0::/"), "", Some(A));
        check(&format!("0::/system.slice/docker-{A}.scope\n"), "", Some(A));
        check(&format!("1:cpu:/docker/{B}/docker/{A}"), "", Some(A));
        check(&format!("1:cpu:/docker/{A}/init.scope"), "", Some(A));
        check(&format!("5:cpu:/kubepods/besteffort/pod1/{A}"), "", Some(A));
    }

    #[test]
    fn the_id_is_found_in_mounts_where_the_cgroup_is_hidden() {
        let mounts = format!(
            "27 1 254:0 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/{B}\n\
             613 599 8:1 /var/lib/docker/containers/{A}/resolv.conf /etc/resolv.conf rw - ext4 x\n"
        );
        check("0::/", &mounts, Some(A));
    }

    #[test]
    fn a_host_has_none_even_with_the_engines_directories_mounted() {
        let mounts = format!(
            "42 27 254:0 /var/lib/docker /var/lib/docker rw,relatime shared:1 - ext4 /dev/vda rw\n\
             43 27 0:5 / /var/lib/docker/containers/{A}/mounts/shm rw - tmpfs shm rw\n"
        );
        check("9:name=systemd:/\n0::/user.slice/session-3.scope\n", &mounts, None);
        check("", "", None);
        check("garbage", "a b c", None);
    }
}
