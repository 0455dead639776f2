import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
  readSync,
  realpathSync,
  closeSync,
} from "node:fs";
import { basename, join } from "node:path";

/*
 * The commands of a node that need a kernel of their own (device mapper, TPM), played on plain files: `node sealed-volume-commands.ts COMMAND ARGUMENT...`, with
 * $ROOT for the node's root. A volume's key, and what the TPM has sealed, are kept beside the header in $ROOT/secrets, so that wrong keys open nothing.
 */

const root = process.env["ROOT"] ?? "";
const [command = "", ...args] = process.argv.slice(2);
const headerBytes = 16_777_216;

const fail = (message: string): never => {
  process.stderr.write(`${message}\n`);
  process.exit(1);
};
const option = (name: string): string | undefined => {
  const at = args.indexOf(name);
  const joined = args.find((each) => each.startsWith(`${name}=`));
  return at === -1 ? joined?.slice(name.length + 1) : args[at + 1];
};
const stdin = (): string => readFileSync(0, "latin1");
const secret = (uuid: string, what: string): string => join(root, "secrets", `${uuid}.${what}`);

function bytesOf(path: string, at: number, length: number): Buffer {
  const file = openSync(path, "r");
  const bytes = Buffer.alloc(length);
  readSync(file, bytes, 0, length, at);
  closeSync(file);
  return bytes;
}

function put(path: string, at: number, bytes: Buffer): void {
  const file = openSync(path, "r+");
  writeSync(file, bytes, 0, bytes.length, at);
  closeSync(file);
}

const untilNul = (bytes: Buffer): string => bytes.toString("latin1").replace(/\0.*$/s, "");
const header = (path: string) => {
  const [first, second] = [bytesOf(path, 0, 16_384), bytesOf(path, 16_384, 16_384)];
  const isFirst = first.toString("latin1", 0, 4) === "LUKS";
  const bytes = isFirst ? first : second;
  if (!isFirst && second.toString("latin1", 0, 4) !== "SKUL")
    return fail(`Device ${path} is not a valid LUKS device.`);
  return {
    label: untilNul(bytes.subarray(24, 72)),
    uuid: untilNul(bytes.subarray(168, 208)),
    epoch: Number(bytes.readBigUInt64BE(16)),
    json: untilNul(bytes.subarray(4096)),
  };
};

/** A LUKS2 header as far as blkid and the probe look: magic, fields, checksum, JSON; both copies. */
function writeHeader(
  path: string,
  fields: { uuid: string; label: string; epoch: number; json: string },
): void {
  for (const at of [0, 16_384]) {
    const bytes = Buffer.alloc(16_384);
    bytes.write(at === 0 ? "LUKS\xba\xbe" : "SKUL\xba\xbe", 0, "latin1");
    bytes.writeUInt16BE(2, 6);
    bytes.writeBigUInt64BE(16_384n, 8);
    bytes.writeBigUInt64BE(BigInt(fields.epoch), 16);
    bytes.write(fields.label, 24, "latin1");
    bytes.write("sha256", 72, "latin1");
    bytes.write(fields.uuid, 168, "latin1");
    bytes.writeBigUInt64BE(BigInt(at), 256);
    bytes.write(fields.json, 4096, "latin1");
    createHash("sha256").update(bytes).digest().copy(bytes, 448);
    put(path, at, bytes);
  }
}

const enrolled = (): {
  keyslots: Record<string, unknown>;
  tokens: Record<string, Record<string, unknown>>;
  digests: Record<string, { keyslots: string[] }>;
  segments: Record<string, { encryption: string }>;
} =>
  JSON.parse(readFileSync(join(import.meta.dirname, "luks-headers/virtual-pi.json"), "utf8")) as ReturnType<
    typeof enrolled
  >;

/** Changes the JSON, in as many writes, and with it the key slot of the TPM. */
function change(
  path: string,
  writes: number,
  edit: (json: ReturnType<typeof enrolled>) => ReturnType<typeof enrolled>,
): void {
  const found = header(path);
  const json = edit(JSON.parse(found.json) as ReturnType<typeof enrolled>);
  writeHeader(path, { ...found, epoch: found.epoch + writes, json: JSON.stringify(json) });
  // As a key slot has it: with another header, or sealed anew, it is another one.
  put(path, 290_816, createHash("sha256").update(`${found.uuid} ${found.epoch}`).digest());
}

function map(name: string, uuid: string, device: string, cipher: string): void {
  if (existsSync(join(root, "dev/mapper", name))) fail(`Device ${name} already exists.`);
  const sys = join(root, "sys/block/dm-0");
  mkdirSync(join(sys, "dm"), { recursive: true });
  mkdirSync(join(root, "sys/class/block"), { recursive: true });
  mkdirSync(join(root, "dev/mapper"), { recursive: true });
  writeFileSync(join(sys, "dm/name"), `${name}\n`);
  writeFileSync(join(sys, "dm/uuid"), `CRYPT-LUKS2-${uuid.replaceAll("-", "")}-${name}\n`);
  writeFileSync(join(sys, "dev"), "252:0\n");
  // As the kernel numbers disks: none has the number of one that was.
  const sequence = join(root, "disk-sequence");
  const number = existsSync(sequence) ? Number(readFileSync(sequence, "latin1")) + 1 : 7;
  writeFileSync(sequence, String(number));
  writeFileSync(join(sys, "diskseq"), `${number}\n`);
  writeFileSync(
    join(root, "dm-table"),
    `0 1 crypt ${cipher} :64:logon:x 0 254:16 ${headerBytes / 512} 1 sector_size:4096\n`,
  );
  symlinkSync("../../block/dm-0", join(root, "sys/class/block/dm-0"));
  const holders = join(root, "sys/class/block", basename(realpathSync(device)), "holders");
  mkdirSync(holders, { recursive: true });
  symlinkSync("../../../block/dm-0", join(holders, "dm-0"));
  const plain = join(root, "dev/dm-0");
  if (!existsSync(plain)) {
    writeFileSync(plain, "");
    truncateSync(plain, 48 * 1024 * 1024);
  }
  symlinkSync("../dm-0", join(root, "dev/mapper", name));
}

function unmap(name: string): void {
  if (readFileSync(join(root, "proc/self/mountinfo"), "utf8").includes(" 252:0 "))
    fail(`Device ${name} is still in use.`);
  rmSync(join(root, "dev/mapper", name));
  rmSync(join(root, "sys/block/dm-0"), { recursive: true });
  rmSync(join(root, "sys/class/block/dm-0"));
  for (const disk of ["vdb", "vdb1"])
    rmSync(join(root, "sys/class/block", disk, "holders/dm-0"), { force: true });
}

const commands: Readonly<Record<string, () => void>> = {
  cryptsetup: () => {
    const last = args.at(-1) ?? "";
    switch (args[0]) {
      case "luksFormat": {
        const key = stdin();
        const json = enrolled();
        json.tokens = {};
        delete json.keyslots["1"];
        for (const each of Object.values(json.digests)) each.keyslots = ["0"];
        for (const each of Object.values(json.segments)) each.encryption = option("--cipher") ?? "";
        const noise = createHash("sha256").update(key).digest();
        // The real one fills the area of the key slots with noise before there is a header.
        put(last, 0, Buffer.alloc(32_768));
        for (let at = 32_768; at < headerBytes; at += 1024 * 1024) put(last, at, noise);
        put(last, headerBytes - 4096, Buffer.alloc(4096, noise));
        if (process.env["MOMENTS"] !== undefined) execFileSync(join(root, "bin/moment"));
        const uuid = option("--uuid") ?? "";
        writeHeader(last, { uuid, label: option("--label") ?? "", epoch: 3, json: JSON.stringify(json) });
        mkdirSync(join(root, "secrets"), { recursive: true });
        writeFileSync(secret(uuid, "key"), key);
        rmSync(join(root, "dev/dm-0"), { force: true });
        break;
      }
      case "open": {
        const device = args[args.indexOf("--") + 1] ?? "";
        const { uuid, json } = header(option("--header") ?? device);
        if (stdin() !== readFileSync(secret(uuid, "key"), "latin1"))
          fail("No key available with this passphrase.");
        const cipher = (JSON.parse(json) as ReturnType<typeof enrolled>).segments["0"]?.encryption ?? "";
        if (!args.includes("--test-passphrase")) map(last, uuid, device, cipher);
        break;
      }
      case "close":
        unmap(last);
        break;
      case "token":
        change(last, 1, (json) => {
          if (json.tokens[option("--token-id") ?? ""] === undefined) fail("Token is not in use.");
          return { ...json, tokens: {} };
        });
        break;
      case "luksKillSlot": {
        const path = args.at(-2) ?? "";
        const { uuid } = header(path);
        if (stdin() !== readFileSync(secret(uuid, "key"), "latin1"))
          fail("No key available with this passphrase.");
        change(path, 1, (json) => {
          json.keyslots = Object.fromEntries(Object.entries(json.keyslots).filter(([id]) => id !== last));
          for (const each of Object.values(json.digests)) each.keyslots = Object.keys(json.keyslots);
          for (const each of Object.values(json.tokens)) each["keyslots"] = [];
          return json;
        });
        break;
      }
      default:
        fail(`no such action: ${args.join(" ")}`);
    }
  },
  "systemd-cryptenroll": () => {
    const device = args.at(-1) ?? "";
    const found = header(device);
    const before = JSON.parse(found.json) as ReturnType<typeof enrolled>;
    if (stdin() !== readFileSync(secret(found.uuid, "key"), "latin1")) fail("Failed to unlock");
    const key = readFileSync(option("--tpm2-public-key") ?? "").toString("base64");
    // Whichever TPM it is sealed to: "This PCR set is already enrolled, executing no operation."
    if (Object.values(before.tokens).some((each) => each["tpm2_pubkey"] === key)) return;
    if (Object.keys(before.keyslots).length > 1 || Object.keys(before.tokens).length > 0)
      fail("only the first slot for a TPM is played");
    // The slot, and the token.
    change(device, 2, () => {
      const json = enrolled();
      for (const each of Object.values(json.tokens)) each["tpm2_pubkey"] = key;
      const cipher = before.segments["0"]?.encryption ?? "";
      for (const each of Object.values(json.segments)) each.encryption = cipher;
      return json;
    });
  },
  "systemd-cryptsetup": () => {
    const [action, name = "", device = "", , options = ""] = args;
    if (action !== "attach") fail(`no such action: ${args.join(" ")}`);
    const set = new Map(
      options
        .split(",")
        .map((each): [string, string] => [each.replace(/=.*/, ""), each.replace(/^[^=]*=?/, "")]),
    );
    const { uuid, json } = header(set.get("header") ?? device);
    const once = join(root, "tpm-fails-once");
    if (existsSync(once)) {
      rmSync(once);
      fail("Failed to unseal secret using TPM2: Input/output error");
    }
    if (!existsSync(join(root, "tpm-opens")))
      fail("Failed to unseal secret using TPM2: State not recoverable");
    const mapped =
      process.env["MAPS_AS"] ??
      (JSON.parse(json) as ReturnType<typeof enrolled>).segments["0"]?.encryption ??
      "";
    map(name, uuid, device, mapped);
  },
};

const played = commands[command] ?? ((): void => void fail(`no such command: ${command}`));
played();
