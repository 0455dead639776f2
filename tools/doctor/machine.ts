import { accessSync, constants, existsSync, mkdirSync, readFileSync, statfsSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Finding } from "./finding.ts";
import { findOnPath } from "./program.ts";

const GIB = 1024 ** 3;

/** The virtual Pi has 1.5 GiB; Pulumi, Node and QEMU take the rest. */
const MEMORY_BYTES = 3 * GIB;

/** Image and snapshots 3 GiB; building the Pulumi CLI takes 4 GiB more for its five minutes. */
const DISK_BYTES = 8 * GIB;

/** What the machine itself has to bring. */
export function examineMachine(cache: string): readonly Finding[] {
  return [system(), rights(), processors(), kvm(), memory(), disk(cache)];
}

function system(): Finding {
  const release = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(release)?.[1] ?? "unknown";
  return findOnPath("apt-get") === undefined
    ? {
        piece: "system",
        state: "note",
        found: name,
        mend: "without apt-get, install what is missing by other means",
      }
    : { piece: "system", state: "present", found: name };
}

function rights(): Finding {
  if (process.getuid?.() === 0) return { piece: "rights", state: "present", found: "root" };
  const sudo = findOnPath("sudo");
  return sudo === undefined
    ? {
        piece: "rights",
        state: "note",
        found: "neither root nor sudo",
        mend: "have an administrator install the missing packages; demo, pi and test run as root",
      }
    : { piece: "rights", state: "present", found: "sudo, to install packages and to run nodes" };
}

function processors(): Finding {
  return { piece: "processors", state: "present", found: String(availableParallelism()) };
}

function kvm(): Finding {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return { piece: "KVM", state: "present", found: "/dev/kvm" };
  } catch {
    return existsSync("/dev/kvm")
      ? {
          piece: "KVM",
          state: "note",
          found: "/dev/kvm is not yours",
          mend: 'sudo usermod -aG kvm "$USER", then log in again; boots are some ten times faster with it',
        }
      : { piece: "KVM", state: "note", found: "none: the virtual Pi is emulated, a boot takes about 40 s" };
  }
}

function memory(): Finding {
  const line = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"));
  const available = Number(line?.[1] ?? 0) * 1024;
  return enough("memory", available, MEMORY_BYTES, "end what else uses memory");
}

function disk(cache: string): Finding {
  mkdirSync(cache, { recursive: true });
  const { bavail, bsize } = statfsSync(cache);
  return enough(
    `disk (${cache})`,
    bavail * bsize,
    DISK_BYTES,
    "free some, or set EDGESEAL_CACHE to a place with more",
  );
}

function enough(piece: string, available: number, needed: number, mend: string): Finding {
  const found = `${(available / GIB).toFixed(1)} GiB free`;
  return available >= needed
    ? { piece, state: "present", found }
    : { piece, state: "missing", found, mend: `${(needed / GIB).toFixed(0)} GiB are needed: ${mend}` };
}
