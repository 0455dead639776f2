import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { extraSecondsOf, UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { subjectAfter, subjectBefore } from "../../../provider/resources/model-files.ts";
import { modelProblems, type ModelInputs } from "../../../provider/resources/model-inputs.ts";
import type { ModelState } from "../../../provider/resources/model-observation.ts";
import { model } from "../../../provider/resources/model.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { addPrograms } from "./container-root.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";
import { inputsFor, modelContent, mountVolume, otherKey, siteKey, statementOn } from "./model-example.ts";

const place = { mountPoint: "/var/models", directory: "/var/models/edge/models" };
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

const files = mkdtempSync(join(tmpdir(), "edgeseal-models-"));
afterAll(() => rmSync(files, { recursive: true }));

const content = modelContent();
const nextContent = modelContent();
const hex = sha256Hex(content);
const nextHex = sha256Hex(nextContent);
writeFileSync(join(files, "model"), content);
writeFileSync(join(files, "next"), nextContent);
const wanted = await inputsFor(content, place, { file: join(files, "model") });
const next = await inputsFor(nextContent, place, { file: join(files, "next") });

function mountedRoot(): FakeRoot {
  const root = new FakeRoot();
  mountVolume(root);
  return root;
}

const stateOf = (root: FakeRoot, inputs = wanted): ModelState => {
  const observed = root.observe(model.observe(inputs));
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
};
const planFor = (state: ModelState, inputs = wanted): readonly Step[] =>
  model.plan(inputs, { outcome: "present", state }, route);
const differences = (state: ModelState, inputs = wanted): readonly string[] =>
  diffState(model.desired(inputs), state).map(({ path }) => path);
const titles = (steps: readonly Step[]): readonly string[] => steps.map(({ title }) => title);

/** As the device does, with the modes that steps give. */
function applyTo(root: FakeRoot, step: Step): void {
  if (step.kind !== "upload") {
    root.apply(step);
    if (step.kind === "file" || step.kind === "directory")
      chmodSync(join(root.root, step.path), Number.parseInt(step.mode, 8));
    return;
  }
  if (!root.holds(step)) throw new Error(`the precondition of '${step.title}' does not hold`);
  copyFileSync(step.source, join(root.root, step.path));
}

function bring(root: FakeRoot, inputs = wanted): void {
  for (const step of planFor(stateOf(root, inputs), inputs)) applyTo(root, step);
  expect(differences(stateOf(root, inputs), inputs)).toEqual([]);
  expect(planFor(stateOf(root, inputs), inputs)).toEqual([]);
}

/** A root on which the model is in place, and then something is done to it. */
function changed(change: (root: FakeRoot) => void, inputs = wanted): FakeRoot {
  const root = mountedRoot();
  bring(root, inputs);
  change(root);
  return root;
}

const at = (which: string, part = "model.gguf"): string => `${place.directory}/${which}/${part}`;
const rewrite = (root: FakeRoot, path: string, text: string | Buffer): void => {
  root.remove(path);
  root.write(path, text);
  chmodSync(join(root.root, path), 0o444);
};

const relink = (root: FakeRoot, target: string): void => {
  root.remove(`${place.directory}/current-llama`);
  root.link(`${place.directory}/current-llama`, target);
};

describe("in place", () => {
  test("a node that has nothing: brought, verified there, and then only linked", () => {
    using root = mountedRoot();
    const steps = planFor(stateOf(root));
    expect(titles(steps)).toEqual([
      "send the model llama",
      "make /etc/edgeseal, root's alone to change",
      "make /etc/edgeseal/model-keys, root's alone to change",
      "write the public key site, which may sign models",
      "make /var/models/edge, root's alone to change",
      "make /var/models/edge/models, root's alone to change",
      "verify the model llama and its signature, and put it in its place",
      `let ${hex.slice(0, 12)} be the model llama that counts`,
    ]);
    expect(steps[0]).toMatchObject({
      bytes: content.length,
      sha256: hex,
      precondition: "mountpoint -q /var/models",
    });
    bring(root);
    expect(readdirSync(join(root.root, place.directory, hex)).sort()).toEqual([
      "model.gguf",
      "statement.pae",
      "statement.sig",
    ]);
    expect(stateOf(root)).toMatchObject({
      digest: `sha256:${hex}`,
      model: "verified",
      former: {},
      volume: "mounted",
    });
    expect(existsSync(join(root.root, "var/models", `.edgeseal-model.llama.${hex}`))).toBe(false);
  });

  test("what the container's check reads of it is what openssl and grep find there", () => {
    using root = changed(() => undefined);
    const part = (name: string): string => join(root.root, at(hex, name));
    root.write("/site.pem", siteKey.pem);
    const verify = execFileSync("openssl", [
      "dgst",
      "-sha256",
      "-verify",
      join(root.root, "site.pem"),
      "-signature",
      part("statement.sig"),
      part("statement.pae"),
    ]).toString();
    expect(verify).toBe("Verified OK\n");
    expect(root.read(at(hex, "statement.pae"))).toContain(`${subjectBefore}${hex}${subjectAfter}`);
  });

  test("another digest: the former stays, and going back sends nothing", () => {
    using root = changed((each) => bring(each, next));
    expect(stateOf(root, next)).toMatchObject({
      digest: `sha256:${nextHex}`,
      former: { [`sha256:${hex}`]: "verified" },
      surplus: [],
    });
    const { file: _, ...withoutFile } = wanted;
    expect(titles(planFor(stateOf(root, withoutFile), withoutFile))).toEqual([
      `let ${hex.slice(0, 12)} be the model llama that counts`,
    ]);
    bring(root, withoutFile);
  });

  test("former models beyond those to keep go last, the oldest first; those that a unit names stay", async () => {
    const third = modelContent();
    writeFileSync(join(files, "third"), third);
    const inputs = await inputsFor(third, place, { file: join(files, "third") });
    using root = changed((each) => bring(each, next));
    utimesSync(join(root.root, place.directory, hex), 1000, 1000);
    const steps = planFor(stateOf(root, inputs), inputs);
    expect(titles(steps).at(-1)).toBe(`remove the former model ${hex.slice(0, 12)}`);
    // The twin: a unit names it.
    root.write(
      "/etc/systemd/system/edgeseal-inference.service",
      `ExecStart=podman run -v /var/models/edge/models/${hex}:/models\n`,
    );
    const named = planFor(stateOf(root, inputs), inputs);
    expect(titles(named)).not.toContain(`remove the former model ${hex.slice(0, 12)}`);
    expect(stateOf(root, inputs)).toMatchObject({ inUse: [`sha256:${hex}`], surplus: [] });
    // Declared after the plan was made, it keeps its model all the same.
    const removal = steps.at(-1) ?? expect.fail("no step");
    expect(root.holds(removal)).toBe(false);
    bring(root, inputs);
    expect(root.exists(at(hex))).toBe(true);
    root.remove("/etc/systemd/system/edgeseal-inference.service");
    bring(root, inputs);
    expect(root.exists(at(hex))).toBe(false);
    expect(root.exists(at(nextHex))).toBe(true);
  });

  test("none is kept where none is to be, and the unit that an exchange goes back to counts as one", () => {
    const none = { ...next, keep: 0 };
    using root = changed((each) =>
      each.write("/var/lib/edgeseal/inference/edgeseal-inference.service", `x ${hex}\n`),
    );
    bring(root, none);
    expect(root.exists(at(hex))).toBe(true);
    root.remove("/var/lib/edgeseal/inference");
    bring(root, none);
    expect(readdirSync(join(root.root, place.directory)).sort()).toEqual([nextHex, "current-llama"].sort());
  });
});

describe("drift", () => {
  test.each<[string, (root: FakeRoot) => void, readonly string[]]>([
    [
      "a byte of the model is changed",
      (root) => rewrite(root, at(hex), Buffer.concat([content.subarray(1), Buffer.from("x")])),
      ["model"],
    ],
    ["the model is gone", (root) => root.remove(`${place.directory}/${hex}`), ["model", "files"]],
    ["only its content is gone", (root) => root.remove(at(hex)), ["model", "files"]],
    [
      "its signature is another",
      (root) => rewrite(root, at(hex, "statement.sig"), "x".repeat(256)),
      ["model"],
    ],
    ["its statement is gone", (root) => root.remove(at(hex, "statement.pae")), ["model", "files"]],
    ["others may write the model", (root) => chmodSync(join(root.root, at(hex)), 0o666), ["files"]],
    [
      "others may write the directory",
      (root) => chmodSync(join(root.root, place.directory), 0o777),
      ["files"],
    ],
    ["the link leads to another", (root) => relink(root, nextHex), ["digest"]],
    ["the link leads elsewhere", (root) => relink(root, "../x"), ["digest"]],
    [
      "a key was put beside those that may sign",
      (root) => root.write("/etc/edgeseal/model-keys/evil.pem", otherKey.pem),
      ["keys"],
    ],
    [
      "the key was exchanged",
      (root) => root.write("/etc/edgeseal/model-keys/site.pem", otherKey.pem),
      ["keys", "model"],
    ],
    [
      "a run was cut off",
      (root) => root.write(`/var/models/.edgeseal-model.llama.${nextHex}`, "x"),
      ["leftovers"],
    ],
    [
      "an upload was cut off",
      (root) =>
        root.write(`/var/models/..edgeseal-model.llama.${nextHex}.0123456789abcdef.edgeseal-partial`, "x"),
      ["leftovers"],
    ],
  ])("%s: named, and mended", (_what, change, properties) => {
    using root = changed(change);
    const named = new Set(differences(stateOf(root)).map((path) => path.replace(/[.[].*$/s, "")));
    expect([...named].sort()).toEqual([...properties].sort());
    bring(root);
  });

  test("what is wrong is said in words", async () => {
    using root = changed((each) => rewrite(each, at(hex), nextContent));
    expect(stateOf(root).model).toBe(`corrupted: its content has the digest sha256:${nextHex}`);
    rewrite(root, at(hex), content);
    expect(stateOf(root).model).toBe("verified");
    using elsewhere = changed((each) => bring(each, next));
    for (const part of ["statement.pae", "statement.sig"])
      rewrite(elsewhere, at(nextHex, part), readFrom(elsewhere, at(hex, part)));
    expect(stateOf(elsewhere, next).model).toBe("its statement is for another model");
    const others = {
      ...wanted,
      keys: { other: otherKey.pem },
      statement: await statementOn(content, otherKey),
    };
    expect(stateOf(root, others).model).toBe("its statement is signed by none of the keys that may sign");
    bring(root, others);
    expect(root.exists("/etc/edgeseal/model-keys/site.pem")).toBe(false);
  });

  /** As on a sector that went bad, for the content of `next`, wherever that is. */
  const failing = (root: FakeRoot, code = 1): void => {
    root.write(
      "/bin/sha256sum",
      `#!/bin/sh
case $(/usr/bin/sha256sum) in ${nextHex}*) echo "sha256sum: -: Input/output error" >&2; exit ${code} ;; esac
echo "${hex}  -"
`,
    );
    chmodSync(join(root.root, "bin/sha256sum"), 0o755);
  };

  test("a model that can't be read to its end is corrupted, and brought anew without being read", () => {
    using root = changed((each) => rewrite(each, at(hex), nextContent));
    failing(root);
    expect(stateOf(root).model).toBe("corrupted: its content can't be read to its end");
    expect(planFor(stateOf(root)).map(({ kind }) => kind)).toContain("upload");
    bring(root);
    expect(stateOf(root).model).toBe("verified");
  });

  test("a former model that can't be read to its end keeps no other from being brought", () => {
    using root = changed((each) => bring(each, wanted), next);
    failing(root);
    expect(stateOf(root)).toMatchObject({
      model: "verified",
      former: { [`sha256:${nextHex}`]: "corrupted: its content can't be read to its end" },
    });
  });

  test("what arrives on such a sector is not put in place", () => {
    using root = mountedRoot();
    failing(root);
    const steps = planFor(stateOf(root, next), next);
    expect(() => {
      for (const step of steps) applyTo(root, step);
    }).toThrow("the content can't be read to its end");
    expect(root.exists(at(nextHex))).toBe(false);
  });

  test.each([127, 137])("a sha256sum that ends with %i tells nothing of a model", (code) => {
    using root = changed((each) => rewrite(each, at(hex), nextContent));
    failing(root, code);
    expect(() => stateOf(root)).toThrow(UnknownObservation);
  });

  test("keys that were not declared are named", () => {
    using root = changed((each) => each.write("/etc/edgeseal/model-keys/evil.pem", otherKey.pem));
    expect(stateOf(root)).toMatchObject({ model: "verified", foreignKeys: ["evil"] });
    root.write("/etc/edgeseal/model-keys/site.pem", otherKey.pem);
    expect(stateOf(root).foreignKeys).toEqual(["evil", "site"]);
    bring(root);
    expect(stateOf(root).foreignKeys).toEqual([]);
  });

  test("a statement alone is mended without the content being sent", () => {
    using root = changed((each) => rewrite(each, at(hex, "statement.sig"), "x"));
    const { file: _, ...withoutFile } = wanted;
    expect(titles(planFor(stateOf(root, withoutFile), withoutFile))).toEqual([
      "verify the model llama and its signature, and put it in its place",
    ]);
    bring(root, withoutFile);
  });

  /** Services that run: one of this model, one of another. */
  const serving = (root: FakeRoot): void => {
    root.write(
      "/etc/systemd/system/edgeseal-inference.service",
      `ExecStart=podman run -v /x/${hex}:/models\n`,
    );
    root.write(
      "/etc/systemd/system/edgeseal-other.service",
      `ExecStart=podman run -v /x/${nextHex}:/models\n`,
    );
    addPrograms(root, {
      systemctl: `#!/bin/sh\nif [ "$1" = show ]; then echo running; else echo "systemctl $*" >>"$ROOT/calls"; fi\n`,
    });
  };

  test.each<[string, (root: FakeRoot) => void]>([
    ["changed", (root) => rewrite(root, at(hex), nextContent)],
    ["gone", (root) => root.remove(`${place.directory}/${hex}`)],
  ])(
    "what serves a model whose content is %s is started anew with the new file, it alone",
    (_what, change) => {
      using root = changed(serving);
      change(root);
      expect(titles(planFor(stateOf(root)))).toEqual([
        "send the model llama",
        "verify the model llama and its signature, and put it in its place",
        "start what serves the model llama anew, where it runs",
      ]);
      bring(root);
      expect(root.calls()).toEqual(["systemctl restart -- edgeseal-inference.service"]);
    },
  );

  test.each<[string, (root: FakeRoot) => void, Partial<ModelInputs>]>([
    ["its signature", (root) => rewrite(root, at(hex, "statement.sig"), "x"), {}],
    [
      "its statement, where a folder has its name",
      (root) => {
        root.remove(at(hex, "statement.pae"));
        root.write(`${at(hex, "statement.pae")}/x`, "");
      },
      {},
    ],
    ["who may write the folder", (root) => chmodSync(join(root.root, place.directory, hex), 0o777), {}],
    ["who may write the model", (root) => chmodSync(join(root.root, at(hex)), 0o666), {}],
    ["the key that signs", () => undefined, { keys: { next: otherKey.pem } }],
  ])(
    "while it is served, %s is mended in the folder that is mounted, without a restart",
    async (_what, change, keys) => {
      using root = changed(serving);
      change(root);
      const inputs = {
        ...wanted,
        ...keys,
        ...(keys.keys === undefined ? {} : { statement: await statementOn(content, otherKey) }),
      };
      const inodes = (): readonly number[] =>
        [join(place.directory, hex), at(hex)].map((path) => statSync(join(root.root, path)).ino);
      const before = inodes();
      bring(root, inputs);
      expect(inodes()).toEqual(before);
      expect(root.calls()).toEqual([]);
    },
  );

  test("another model's leftovers are not this one's", () => {
    using root = changed((each) => each.write(`/var/models/.edgeseal-model.llama-2.${nextHex}`, "x"));
    expect(differences(stateOf(root))).toEqual([]);
  });
});

const readFrom = (root: FakeRoot, path: string): Buffer => execFileSync("cat", [join(root.root, path)]);

describe("refused", () => {
  test("with nothing mounted, before anything is read, sent or written", () => {
    using root = changed((each) => each.remove("/mounted"));
    expect(stateOf(root)).toMatchObject({ volume: "not mounted", model: "missing" });
    expect(() => planFor(stateOf(root))).toThrow(PlanRefused);
    expect(() => planFor(stateOf(root))).toThrow(
      "nothing is mounted at /var/models, so the model llama would land on the plain root",
    );
    // And where it is unmounted after that: no step that writes there goes on.
    using fresh = mountedRoot();
    const steps = planFor(stateOf(fresh));
    fresh.remove("/mounted");
    const onVolume = steps.filter((step) => /send|verify|make \/var\/models/.test(step.title));
    expect(onVolume).toHaveLength(4);
    for (const step of onVolume) expect(fresh.holds(step), step.title).toBe(false);
  });

  test("a model that is not there, or is corrupted, without a file to bring it from", () => {
    const { file: _, ...withoutFile } = wanted;
    using root = mountedRoot();
    expect(() => planFor(stateOf(root, withoutFile), withoutFile)).toThrow(
      `the model llama (sha256:${hex}) is not on the node as it should be (missing), and there is no file to bring it from; give its \`file\` on this machine`,
    );
    bring(root);
    rewrite(root, at(hex), nextContent);
    expect(() => planFor(stateOf(root, withoutFile), withoutFile)).toThrow(
      "(corrupted: its content has the digest",
    );
  });

  test("a directory that is another model's", () => {
    using root = changed((each) => each.link(`${place.directory}/current-other`, nextHex));
    expect(() => planFor(stateOf(root))).toThrow("is the directory of other");
  });

  /** Runs the plan with the content, or what vouches for it, exchanged on the way. */
  function tampered(root: FakeRoot, change: (step: Step, root: FakeRoot) => Step): string {
    for (const step of planFor(stateOf(root))) {
      try {
        applyTo(root, change(step, root));
      } catch (error) {
        return (error as Error).message;
      }
    }
    return "nothing was refused";
  }
  const statementOf = async (of: ModelInputs): Promise<string> => {
    const root = mountedRoot();
    const verify = planFor(stateOf(root, of), of).find(({ title }) => title.startsWith("verify"));
    root[Symbol.dispose]();
    return Promise.resolve(verify?.kind === "run" ? (verify.stdin ?? "") : "");
  };
  const isVerify = (step: Step): boolean => step.title.startsWith("verify");

  test.each<[string, () => Promise<(step: Step, root: FakeRoot) => Step>, string]>([
    [
      "other content",
      () =>
        Promise.resolve((step) => (step.kind === "upload" ? { ...step, source: join(files, "next") } : step)),
      `refused: the content has the digest sha256:${nextHex}, not sha256:${hex}`,
    ],
    [
      "the statement of another model",
      async () => {
        const stdin = await statementOf(next);
        return (step) => (isVerify(step) ? ({ ...step, stdin } as Step) : step);
      },
      `refused: the statement that site has signed is for another model than sha256:${hex}`,
    ],
    [
      "a statement of a key that may not sign",
      async () => {
        const stdin = await statementOf({
          ...wanted,
          keys: { site: otherKey.pem },
          statement: await statementOn(content, otherKey),
        });
        return (step) => (isVerify(step) ? ({ ...step, stdin } as Step) : step);
      },
      "refused: the statement is signed by none of the keys that may sign (site)",
    ],
    [
      "another key on the node",
      () =>
        Promise.resolve((step, root) => {
          if (isVerify(step)) root.write("/etc/edgeseal/model-keys/site.pem", otherKey.pem);
          return step;
        }),
      "refused: the statement is signed by none of the keys that may sign (site)",
    ],
  ])("by the device: %s; what was there stays", async (_what, change, said) => {
    using root = mountedRoot();
    bring(root, next);
    expect(tampered(root, await change())).toContain(said);
    expect(root.exists(`${place.directory}/${hex}`)).toBe(false);
    root.write("/etc/edgeseal/model-keys/site.pem", siteKey.pem);
    expect(stateOf(root, next)).toMatchObject({ digest: `sha256:${nextHex}`, model: "verified" });
    // The control: untampered it is taken.
    bring(root);
  });
});

describe("inputs", () => {
  const problems = async (changes: Partial<ModelInputs>): Promise<readonly string[]> =>
    modelProblems(await inputsFor(content, place, changes)).map(({ path, message }) => `${path}: ${message}`);

  test("good ones", async () => {
    expect(await problems({})).toEqual([]);
    expect(await problems({ directory: place.mountPoint })).toEqual([]);
  });

  test("a directory that is not on the volume, and paths that are not plain", async () => {
    expect(await problems({ directory: "/var/models-2/x" })).toEqual([
      "directory: /var/models-2/x is not below `mountPoint` (/var/models), so the model would not be on the sealed volume; choose e.g. /var/models/models",
    ]);
    expect(await problems({ directory: "/var/models/../../etc" })).toContain(
      'directory: "/var/models/../../etc" is not the plain path; write /etc',
    );
  });

  test("a statement for another model, one that nobody of the keys has signed, and one that is none", async () => {
    expect((await problems({ statement: await statementOn(nextContent) })).join()).toMatch(
      new RegExp(`^statement: it is for babble-1m with sha256:${nextHex}, and .digest. is sha256:${hex}`),
    );
    expect((await problems({ statement: await statementOn(content, otherKey) })).join()).toContain(
      "statement.signatures[0]: by none of the keys that may sign (site)",
    );
    expect((await problems({ statement: "{}" })).length).toBeGreaterThan(0);
  });

  test("a key that is none", async () => {
    expect((await problems({ keys: { site: "x" } })).join()).toContain(
      'keys["site"]: expected one public key in PEM',
    );
  });
});

describe("the probe", () => {
  test("has the time that reading its models through takes, and says that it knows nothing of a model by its name alone", async () => {
    const probe = model.observe(wanted);
    expect(extraSecondsOf([probe])).toBe(2 * 31);
    expect(() => model.observe({ name: "llama" } as never).parse({})).toThrow(UnknownObservation);
    expect(model.observe({ ...wanted, statement: "{}" }).extraSeconds).toBe(60);
    await Promise.resolve();
  });

  test.each(["models", "links", "use", "leftovers", "keys", "marks", "volume"])(
    "without an answer to '%s' nothing is told",
    (part) => {
      using root = mountedRoot();
      const probe = model.observe(wanted);
      const parts = Object.fromEntries(
        Object.entries(probe.parts).map(([name, script]) => [name, root.sh(script)]),
      );
      expect(() => probe.parse({ ...parts, [part]: { code: 1, stdout: "", stderr: "I/O error" } })).toThrow(
        UnknownObservation,
      );
      expect(() => probe.parse(parts)).not.toThrow();
    },
  );
});

test("for any state, the plan is empty exactly when nothing differs", () => {
  const desired = model.desired(wanted) as ModelState;
  let empty = 0;
  for (let seed = 0; seed < 500; seed++) {
    const choose = new Choices(seed);
    const state: ModelState = {
      volume: choose.mostly("mounted" as const, "not mounted" as const),
      digest: choose.mostly(wanted.digest, "none", next.digest, "../x"),
      model: choose.mostly(
        "verified",
        "missing",
        "its statement is missing",
        "its content is missing",
        `corrupted: its content has the digest ${next.digest}`,
      ),
      former: choose.mostly({}, { [next.digest]: "verified" }),
      inUse: choose.mostly([], [wanted.digest]),
      surplus: choose.mostly([], [next.digest]),
      leftovers: choose.mostly([], ["/var/models/.edgeseal-model.llama.x"]),
      otherModels: choose.mostly([], ["other"]),
      keys: choose.mostly(desired.keys, {}, { ...desired.keys, evil: "sha256:x" }, { site: "no public key" }),
      foreignKeys: [],
      files: choose.mostly(
        desired.files,
        {},
        { ...desired.files, [place.directory]: "0777 root:root directory" },
        { ...desired.files, [at(hex)]: "0644 root:root" },
      ),
    };
    const differs = differences(state).length > 0;
    if (!differs) empty += 1;
    let steps: readonly Step[] | undefined;
    try {
      steps = planFor(state);
    } catch (error) {
      expect(error, `seed ${seed}`).toBeInstanceOf(PlanRefused);
    }
    expect(steps?.length === 0, `seed ${seed}: ${differences(state).join()}`).toBe(!differs);
  }
  expect(empty).toBeGreaterThan(10);
});

test("the way back leaves the models, and takes away what edgeseal says of them", () => {
  using root = changed((each) => bring(each, next));
  const observed = { outcome: "present" as const, state: stateOf(root) };
  for (const step of model.revert(wanted, observed)) applyTo(root, step);
  expect(root.exists(at(hex))).toBe(true);
  expect(root.exists(at(nextHex))).toBe(true);
  expect(root.exists("/etc/edgeseal/model-keys")).toBe(false);
  expect(root.exists(`${place.directory}/current-llama`)).toBe(false);
  expect(model.revert(wanted, { outcome: "present", state: stateOf(root) })).toEqual([]);
});
