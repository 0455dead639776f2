import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { inputValidator } from "../../../provider/check/input-validator.ts";
import { manifestEntry, probesOfManifest } from "../../../provider/device/manifest.ts";
import { annotatedSecrets } from "../../../provider/host/secrets.ts";
import { inferenceContainer } from "../../../provider/resources/inference-container.ts";
import { pull } from "../../../provider/resources/inference-container-image.ts";
import {
  inferenceContainerProblems,
  type InferenceContainerInputs,
} from "../../../provider/resources/inference-container-inputs.ts";
import { formsIn, formsOf } from "../../secret-forms.ts";
import { FakeRoot } from "./fake-root.ts";
import { example } from "./inference-container-example.ts";

/*
 * A login to a registry: where it goes while an image is pulled, and that it is nowhere else.
 */

const password = "cAnArY \"'$x\\`7f3a9c\nsecond line";
const endorsementKeySha256 = "e1".repeat(32);
const registryAuth = { username: "puller", password, endorsementKeySha256 };
const wanted: InferenceContainerInputs = { ...example, registryAuth };
const forms = formsOf("password", password);
const folder = "/run/edgeseal.logins";
const file = `${folder}/inference.json`;
const id = "1".repeat(64);

/** The step that pulls, on a node whose podman says this. */
function pulling(said: string, inputs: InferenceContainerInputs = wanted) {
  using root = new FakeRoot();
  for (const [name, script] of Object.entries({
    // Podman, as far as it is asked: what it is called with, and what it would read.
    "systemd-run": `echo "systemd-run $*" >>"$ROOT/calls"
case "$*" in *' pull --quiet '*)
  env >"$ROOT/environment"
  if [ -e "$ROOT${file}" ]; then stat -c %a "$ROOT${file}" "$ROOT${folder}" >"$ROOT/modes"; cp "$ROOT${file}" "$ROOT/read"; fi
  cat >"$ROOT/input"
  cat "$ROOT/said"; exit "$(cat "$ROOT/code")" ;;
esac`,
    install: `for folder; do :; done; mkdir -p "$folder"; chmod "$3" "$folder"`,
    sync: ":",
    chown: `echo "chown $*" >>"$ROOT/calls"`,
  })) {
    root.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
    chmodSync(join(root.root, "bin", name), 0o755);
  }
  root.write("/said", said);
  root.write("/code", said === id ? "0" : "125");
  const step = pull(inputs);
  if (step.kind !== "run") return expect.fail("it is no script");
  const { code, stdout, stderr } = root.sh(step.script, step.stdin);
  const read = (path: string) => (root.exists(path) ? root.read(path) : undefined);
  return {
    step,
    ran: { code, stdout, stderr },
    calls: root.calls(),
    environment: read("/environment"),
    input: read("/input"),
    modes: read("/modes"),
    login: read("/read"),
    left: root.exists(file),
  };
}

describe("while the image is pulled", () => {
  const { ran, calls, environment, input, modes, login, left, step } = pulling(id);

  test("is a file that podman reads, for this repository alone, and that user's alone", () => {
    expect(ran).toEqual({ code: 0, stdout: "", stderr: "" });
    const auth = Buffer.from(`puller:${password}`).toString("base64");
    expect(JSON.parse(login ?? "")).toEqual({ auths: { "registry.example/edge/llama": { auth } } });
    expect(modes).toBe("600\n711\n");
    expect(calls).toContain(`chown edgeseal-inference ${file}`);
    const pulls = calls.filter((call) => call.includes(" pull --quiet "));
    expect(pulls).toHaveLength(1);
    expect(pulls[0]).toContain(` pull --quiet --authfile ${file} docker://`);
  });

  test("is given to no other command of podman's", () => {
    expect(calls.filter((call) => call.includes("authfile"))).toHaveLength(1);
    expect(calls.filter((call) => call.startsWith("systemd-run"))).toHaveLength(3);
  });

  test("is in no argument, no environment, and not on the input of what it starts", () => {
    expect(formsIn(calls.join("\n"), forms)).toEqual([]);
    expect(formsIn(environment ?? "", forms)).toEqual([]);
    expect(input).toBe("");
    const { stdin, ...rest } = step;
    expect(formsIn(JSON.stringify(rest), forms)).toEqual([]);
    expect(stdin).toBe(`puller:${password}`);
  });

  test("is gone afterwards, however it ended", () => {
    expect(left).toBe(false);
    expect(pulling("Error: x").left).toBe(false);
  });
});

test("is for one TPM only", () => {
  expect(pull(wanted)).toHaveProperty("onlyToTpm", endorsementKeySha256);
});

test("without a login there is none", () => {
  const { login, calls, step } = pulling(id, example);
  expect(login).toBeUndefined();
  expect(step).not.toHaveProperty("stdin");
  expect(calls.join()).not.toContain("authfile");
});

describe("a registry that lets nobody in is told from everything else", () => {
  const said = [
    "Error: unable to copy from source docker://x: initializing source docker://x: reading manifest sha256:aa in x: authentication required",
    "Error: unable to retrieve auth token: invalid username/password: unauthorized: authentication required",
    "Error: reading manifest sha256:aa in docker.io/x: requested access to the resource is denied",
  ];

  test.each(said)("%s", (words) => {
    expect(pulling(words).ran.stderr).toBe(
      `podman does not take ${example.image}: ${words}; the registry does not take this login: see that the name and the password of registryAuth are right, and may pull this image`,
    );
    expect(pulling(words, example).ran.stderr).toMatch(/; the registry asks for a login: give registryAuth/);
  });

  test.each([
    ["Source image rejected: A signature was required, but no signature exists", /have it signed/],
    ["reading manifest sha256:aa in x: manifest unknown", /see that the node reaches the registry/],
  ])("%s", (words, mend) => {
    expect(pulling(words).ran.stderr).toMatch(mend);
  });
});

describe("the password", () => {
  test("is a secret of the inputs, and no part of the manifest on the node, which is read with it left out", () => {
    const inputs = { ...wanted, registryAuth };
    expect(annotatedSecrets(inferenceContainer.inputs, inputs as never)).toEqual([
      ["registryAuth", "password"],
    ]);
    const entry = manifestEntry(inferenceContainer, inputs);
    expect(formsIn(entry, forms)).toEqual([]);
    const parts = { entries: { code: 0, stdout: `${entry}\n`, stderr: "" } };
    expect(probesOfManifest(parts, [inferenceContainer]).map((probe) => probe.id)).toEqual([
      "edgeseal:inference:InferenceContainer#inference",
    ]);
  });

  test("is neither observed nor wanted of the node: another one changes nothing there", () => {
    const probe = JSON.stringify(inferenceContainer.observe(wanted).parts);
    expect(formsIn(probe + JSON.stringify(inferenceContainer.desired(wanted)), forms)).toEqual([]);
    const other = { ...wanted, registryAuth: { ...registryAuth, password: "another" } };
    expect(inferenceContainer.desired(other)).toEqual(inferenceContainer.desired(wanted));
  });

  test("is no other state of the node when another TPM is pinned for it", () => {
    const pinned = {
      ...wanted,
      registryAuth: { ...registryAuth, endorsementKeySha256: "e2".repeat(32) },
    };
    expect(inferenceContainer.desired(pinned)).toEqual(inferenceContainer.desired(wanted));
    expect(inferenceContainer.observe(pinned).parts).toEqual(inferenceContainer.observe(wanted).parts);
  });
});

describe("refused before a device is asked", () => {
  const validator = inputValidator(inferenceContainer.inputs);
  const problems = (auth: object) =>
    validator.validate({ ...example, registryAuth: auth } as never, [["registryAuth", "password"]]).problems;

  test.each([
    ["a name with a colon", { username: "a:b" }, "registryAuth.username"],
    ["no name", { username: undefined }, "registryAuth.username"],
    ["no password", { password: undefined }, "registryAuth.password"],
    ["an empty password", { password: "" }, "registryAuth.password"],
    ["no TPM that it is for", { endorsementKeySha256: undefined }, "registryAuth.endorsementKeySha256"],
    [
      "a TPM by another name than the digest of its key",
      { endorsementKeySha256: "E1".repeat(32) },
      "registryAuth.endorsementKeySha256",
    ],
    ["something else beside them", { token: "x" }, "registryAuth.token"],
  ])("%s", (_, changes, path) => {
    const entries = Object.entries({ ...registryAuth, ...changes }).filter(
      ([, value]) => value !== undefined,
    );
    const found = problems(Object.fromEntries(entries));
    expect(found.map((each) => each.path)).toEqual([path]);
    expect(formsIn(JSON.stringify(found), forms)).toEqual([]);
  });

  test("a login beside an archive, which is not pulled", () => {
    expect(inferenceContainerProblems({ ...wanted, archive: "/llama.tar" })).toEqual([
      {
        path: "registryAuth",
        message: expect.stringContaining("with an `archive` nothing is pulled") as string,
      },
    ]);
    expect(inferenceContainerProblems(wanted)).toEqual([]);
  });
});
