import { generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { onDevice } from "../../../provider/resources/managed-files.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import {
  modelStatement,
  preAuthenticationEncoding,
  statementPayloadType,
} from "../../../provider/trust/model-statement.ts";
import { FakeRoot } from "./fake-root.ts";

/*
 * The program that decides at each start whether a server may: with real signatures and OpenSSL.
 */

const program = onDevice("check-inference");
const model = Buffer.from("GGUF: a model");
const hex = sha256Hex(model);
const folder = `/var/models/${hex}`;

const key = () => generateKeyPairSync("rsa", { modulusLength: 2048 });
const site = key();
const other = key();
const pem = (publicKey: KeyObject): string => publicKey.export({ type: "spki", format: "pem" }).toString();

const systemctl = `#!/bin/sh
[ "$*" = "show -p FragmentPath -p DropInPaths -p NeedDaemonReload -- edgeseal-inference.service" ] || exit 1
printf 'FragmentPath=/etc/systemd/system/edgeseal-inference.service\\nDropInPaths=\\nNeedDaemonReload=no\\n'
`;

/** `stat` as far as the program asks: where a path is mounted, and a file's owner and mode. */
const stat = `#!/bin/sh
case "$*" in *%m*) for path; do :; done; [ -d "$path" ] && cat "$ROOT/mount-point" ;; *) cat "$ROOT/marks" ;; esac
`;

function statementOf(sha256: string, origin = "https://models.example/x") {
  return preAuthenticationEncoding(
    statementPayloadType,
    modelStatement({ name: "a-model", sha256, bytes: model.length, origin, licence: "Apache-2.0" }),
  );
}

/** A node on which all is as it should be. */
function goodNode(): FakeRoot {
  const root = new FakeRoot();
  for (const [name, script] of Object.entries({
    stat,
    systemctl,
    findmnt: `#!/bin/sh\ncat "$ROOT/mounted"\n`,
  })) {
    root.write(`/usr/sbin/${name}`, script);
    chmodSync(join(root.root, "usr/sbin", name), 0o755);
  }
  root.write("/etc/systemd/system/edgeseal-inference.service", "[Unit]\n");
  root.write("/mount-point", "/var/models\n");
  root.write("/marks", "root -r--r--r--\n");
  root.write("/var/storage/x", "");
  root.write(`${folder}/model.gguf`, model);
  signed(root, statementOf(hex), site.privateKey);
  root.write("/etc/edgeseal/model-keys/site.pem", pem(site.publicKey));
  return root;
}

function signed(root: FakeRoot, statement: Buffer, privateKey: KeyObject): void {
  root.write(`${folder}/statement.pae`, statement);
  root.write(`${folder}/statement.sig`, sign("sha256", statement, privateKey));
}

function check(root: FakeRoot, invocation = "1") {
  const { code, stderr } = root.sh(
    `INVOCATION_ID=${invocation}\nset -- inference /var/models ${hex} /var/storage\n${program}`,
  );
  const reason = root.exists("/run/edgeseal/inference/inference")
    ? root.read("/run/edgeseal/inference/inference").trim()
    : "";
  return { code, reason, stderr };
}

test("a signed model on a mounted volume may be served, and an earlier reason is gone", () => {
  using root = goodNode();
  root.write("/run/edgeseal/inference/inference", "volume-not-mounted: yesterday\n");
  expect(check(root)).toEqual({ code: 0, reason: "", stderr: "" });
  // So that a refresh can tell whether the unit's file was changed since.
  expect(root.read("/run/edgeseal/inference/inference.unit")).toBe("[Unit]\n");
});

test("which start it is, and what else its unit was read from, is kept of the last one that may be made", () => {
  using root = goodNode();
  expect(check(root, "5e1f").code).toBe(0);
  const shown =
    "FragmentPath=/etc/systemd/system/edgeseal-inference.service\nDropInPaths=\nNeedDaemonReload=no\n";
  expect(root.read(`${copies}.start`)).toBe(`InvocationID=5e1f\n${shown}`);
  // As systemd starts it again by itself.
  expect(check(root, "9c3e").code).toBe(0);
  expect(root.read(`${copies}.start`)).toBe(`InvocationID=9c3e\n${shown}`);
  root.write(`${folder}/model.gguf`, "x");
  expect(check(root, "0000").code).toBe(1);
  expect(root.read(`${copies}.start`)).toBe(`InvocationID=9c3e\n${shown}`);
});

const policy = "/sys/kernel/security/apparmor/policy/profiles";
const copies = "/run/edgeseal/inference/inference";

test("the profiles that it starts under are kept, too: what the file says, and what the kernel has loaded", () => {
  using root = goodNode();
  root.write("/etc/edgeseal/seccomp/inference.json", "{}\n");
  root.write(`${policy}/edgeseal-inference.4/raw_data`, "inner;");
  root.write(`${policy}/edgeseal-inference-podman.5/raw_data`, "outer;");
  root.write(`${policy}/edgeseal-inference-other.6/raw_data`, "of another service;");
  expect(check(root).code).toBe(0);
  expect(root.read(`${copies}.seccomp`)).toBe("{}\n");
  expect(root.read(`${copies}.apparmor`)).toBe("inner;outer;");
  // From the cache of compiled profiles, as at a boot, each shows both.
  for (const each of ["edgeseal-inference.4", "edgeseal-inference-podman.5"])
    root.write(`${policy}/${each}/raw_data`, "inner;outer;");
  expect(check(root).code).toBe(0);
  expect(root.read(`${copies}.apparmor`)).toBe("inner;outer;");
});

test("of what is not there nothing is kept, nor what an earlier start kept", () => {
  using root = goodNode();
  root.write(`${copies}.seccomp`, "{}\n");
  root.write(`${copies}.apparmor`, "inner;outer;");
  root.write(`${policy}/edgeseal-inference.4/raw_data`, "inner;");
  expect(check(root).code).toBe(0);
  expect(root.exists(`${copies}.seccomp`)).toBe(false);
  expect(root.exists(`${copies}.apparmor`)).toBe(false);
});

/** A sealed volume that belongs at /var, with another one around it. */
const sealed = (root: FakeRoot, mountPoint: string, source: string): void => {
  root.write("/mount-point", `@ROOT${mountPoint}\n`);
  root.write("/etc/edgeseal/volumes/a-outer.conf", "mount-point=@ROOT\n");
  root.write("/etc/edgeseal/volumes/models.conf", "mount-point=@ROOT/var\n");
  root.write("/mounted", `${source}\n`);
};

test("on the sealed volume that belongs there, too", () => {
  using root = goodNode();
  sealed(root, "/var", "/dev/mapper/edgeseal-models");
  expect(check(root)).toEqual({ code: 0, reason: "", stderr: "" });
});

test("one that another of the site's keys has signed, too", () => {
  using root = goodNode();
  root.write("/etc/edgeseal/model-keys/a-first.pem", pem(other.publicKey));
  expect(check(root).code).toBe(0);
});

describe("else the start is skipped, and why is kept", () => {
  test.each<[string, (root: FakeRoot) => void, RegExp]>([
    [
      "the volume is not mounted",
      (root) => root.write("/mount-point", "/\n"),
      /^volume-not-mounted: \/var\/models is not on a mounted volume$/,
    ],
    [
      "there is no storage",
      (root) => root.remove("/var/storage"),
      /^volume-not-mounted: \/var\/storage is not/,
    ],
    [
      "the sealed volume stays locked",
      (root) => {
        root.write("/mount-point", "/\n");
        root.write("/etc/edgeseal/volumes/models.conf", "mount-point=@ROOT/var\nfilesystem=ext4\n");
        root.write("/run/edgeseal/volumes/models", "state=locked\nreason=pcr11-not-approved: PCR 11 is 00\n");
      },
      /the sealed volume models is to be mounted at \/var and is not: pcr11-not-approved: PCR 11 is 00$/,
    ],
    [
      "something else is mounted where the sealed volume belongs",
      (root) => sealed(root, "/var", "/dev/sda1"),
      /^volume-differs: \/var\/models is on \/dev\/sda1, mounted at \/var, in the place of the sealed volume models; /,
    ],
    [
      "another sealed volume is mounted there",
      (root) => sealed(root, "/var", "/dev/mapper/edgeseal-a-outer"),
      /^volume-differs/,
    ],
    [
      "something is mounted over a folder on the sealed volume",
      (root) => sealed(root, "/var/models", "/dev/mapper/edgeseal-models"),
      /^volume-differs/,
    ],
    [
      "there is no model",
      (root) => root.remove(`${folder}/model.gguf`),
      /^model-missing: .*model\.gguf is not there/,
    ],
    [
      "a link in its place",
      (root) => {
        root.remove(`${folder}/model.gguf`);
        root.write("/var/elsewhere", model);
        root.link(`${folder}/model.gguf`, join(root.root, "var/elsewhere"));
      },
      /^model-missing/,
    ],
    [
      "there is no signature",
      (root) => root.remove(`${folder}/statement.sig`),
      /^model-missing: .*statement\.sig/,
    ],
    ["others may write to it", (root) => root.write("/marks", "root -rw-r--rw-\n"), /^model-writable/],
    ["a group may write to it", (root) => root.write("/marks", "root -rw-rw-r--\n"), /^model-writable/],
    ["it is another's", (root) => root.write("/marks", "edge -r--r--r--\n"), /^model-writable/],
    [
      "one byte differs",
      (root) => root.write(`${folder}/model.gguf`, "GGUF: a mode1"),
      new RegExp(
        `^model-differs: .* has the digest sha256:${sha256Hex("GGUF: a mode1")}, not the signed one`,
      ),
    ],
    ["it is cut off", (root) => root.write(`${folder}/model.gguf`, ""), /^model-differs/],
    [
      "another key has signed",
      (root) => signed(root, statementOf(hex), other.privateKey),
      /^model-not-signed: .* signed by none of the keys/,
    ],
    [
      "its key is no longer allowed",
      (root) => root.remove("/etc/edgeseal/model-keys/site.pem"),
      /^model-not-signed/,
    ],
    [
      "the statement was changed",
      (root) => root.write(`${folder}/statement.pae`, statementOf(hex, "elsewhere")),
      /^model-not-signed/,
    ],
    [
      "the statement is another model's",
      (root) => signed(root, statementOf("c".repeat(64)), site.privateKey),
      /^model-not-signed: .* is for another model/,
    ],
    [
      "another model's statement names it where it came from",
      (root) =>
        signed(
          root,
          statementOf("c".repeat(64), `"subject":[{"digest":{"sha256":"${hex}"},"name":"x"}]`),
          site.privateKey,
        ),
      /is for another model/,
    ],
    [
      "the site's key has signed something of another kind",
      (root) =>
        signed(
          root,
          Buffer.from(`{"predicateType":"urn:other","subject":[{"digest":{"sha256":"${hex}"},"name":"x"}]}`),
          site.privateKey,
        ),
      /is for another model/,
    ],
  ])("%s", (_, change, reason) => {
    using root = goodNode();
    change(root);
    const found = check(root);
    // systemd takes 1 to 254 of ExecCondition= for "skip".
    expect(found.code).toBe(1);
    expect(found.reason).toMatch(reason);
    expect(found.stderr).toBe(`<3>inference does not start: ${found.reason}`);
  });
});
