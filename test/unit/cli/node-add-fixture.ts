import type { World } from "../../../cli/node-add/add.ts";
import type { DeviceDisk } from "../../../cli/node-add/device-disks.ts";
import type { DeviceReading } from "../../../cli/node-add/read-device.ts";
import type { Connection } from "../../../provider/connection.ts";
import type { ShownHostKey } from "../../../provider/device/scan-host-key.ts";
import { hostKey } from "../site/site-text.ts";

const keyOf = (line: string): ShownHostKey => {
  const [type = "", base64 = ""] = line.split(" ");
  return { type, blob: Buffer.from(base64, "base64") };
};
export const otherHostKey =
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxOJZ0vJH8pR2fNrhhtHdPm0nMlyCgHxxdbXfEVPYpR";
export const ecdsaHostKey =
  "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFf5RgWhNcKMzd8sWvRnVwfmJbYGUhx+ahZmuLS4yhWAYpU3i7pSu6GPWpj1x7r0J0Y4tB5CVdrgu3AxG7lgl3s=";
export const shownKey = keyOf(hostKey);

export const endorsementKey = "5e".repeat(32);

export const rootDisk: DeviceDisk = {
  path: "/dev/mmcblk0",
  stablePath: "/dev/disk/by-id/mmc-SD64G_0x1",
  model: "",
  bytes: 64 * 1024 ** 3,
  holdsRoot: true,
  table: "dos",
  partitions: [
    { path: "/dev/mmcblk0p1", bytes: 512 * 1024 ** 2, signature: "vfat", mountPoints: ["/boot/firmware"] },
    { path: "/dev/mmcblk0p2", bytes: 32 * 1024 ** 3, signature: "ext4", mountPoints: ["/"] },
  ],
  unallocatedMiB: [31 * 1024],
  content: ["dos", "vfat", "ext4"],
  uses: ["mounted at /boot/firmware", "mounted at /"],
};

export const blankDisk: DeviceDisk = {
  path: "/dev/nvme0n1",
  stablePath: "/dev/disk/by-id/nvme-Samsung_SSD_980_S64",
  model: "Samsung SSD 980",
  bytes: 500 * 1024 ** 3,
  holdsRoot: false,
  table: "none",
  partitions: [],
  unallocatedMiB: [],
  content: [],
  uses: [],
};

/** A Pi 5 as it comes from the shop, with a TPM and a blank disk. */
export function aReading(changes: Partial<DeviceReading> = {}): DeviceReading {
  return {
    identity: { fingerprint: undefined, tpm: "2.0", endorsementKey, trouble: undefined },
    system: {
      hostName: "raspberrypi",
      operatingSystem: "Debian GNU/Linux 13 (trixie)",
      architecture: "arm64",
      kernel: "6.12.34+rpt-rpi-2712",
      memoryMiB: 8062,
    },
    disks: [rootDisk, blankDisk],
    firmware: {
      model: "Raspberry Pi 5 Model B Rev 1.0",
      signedBits: "0x00000000",
      signedBootEnabled: "no",
      developmentKeyRevoked: "no",
      otpKeyLocked: "no",
      customerKeySha256: "unknown",
      bootImageSha256: "unknown",
      eepromVersion: "69471177",
      eepromBuildTime: "2025-05-08T14:13:17Z",
    },
    blocks: {},
    unknown: {},
    ...changes,
  };
}

/** A world with one device in it, which notes what is done to it. */
export interface FakeWorld extends World {
  readonly did: string[];
  connection: Connection | undefined;
}

export interface WorldParts {
  /** The host keys of its sshd. */
  readonly keys?: readonly string[];
  /** What a person types; `undefined`: there is no terminal. */
  readonly types?: string;
  readonly reading?: DeviceReading;
  /** While the person compares. */
  readonly meanwhile?: () => void;
}

export function aWorld(parts: WorldParts = {}): FakeWorld {
  const { keys = [hostKey], types: typed, reading = aReading(), meanwhile } = parts;
  const world: FakeWorld = {
    did: [],
    connection: undefined,
    now: () => new Date("2027-01-15T12:00:00Z"),
    scan: (_place, types) => {
      world.did.push(`scan for ${types.join(" ")}`);
      const shown = keys.map(keyOf);
      return Promise.resolve(types.flatMap((type) => shown.filter((key) => key.type === type))[0]);
    },
    canAsk: () => typed !== undefined,
    ask: (question) => {
      world.did.push(`ask ${question}`);
      meanwhile?.();
      return Promise.resolve(typed ?? "");
    },
    read: (connection) => {
      world.did.push("read");
      world.connection = connection;
      return Promise.resolve(reading);
    },
  };
  return world;
}
