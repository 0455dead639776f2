import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { SeccompProfileInputs } from "../../provider/resources/seccomp-profile-inputs.ts";
import {
  lettingThrough,
  type SeccompProfileState,
} from "../../provider/resources/seccomp-profile-observation.ts";
import { seccompDocument } from "../../provider/resources/seccomp-profile-variants.ts";
import { triedCalls } from "../../provider/resources/seccomp-profile-tried.ts";
import { variants } from "../../provider/resources/server-variants.ts";
import { seccompProfile } from "../../provider/resources/seccomp-profile.ts";
import { rootWithInit } from "../unit/resources/container-root.ts";

/*
 * Calls that are really made, as root, without the rendered profile and under it: by this machine's kernel, and through its libseccomp. Files are those of a root of the
 * test's own; python3 is this machine's.
 */

function observed(inputs: SeccompProfileInputs, text = seccompDocument(inputs)): SeccompProfileState {
  using root = rootWithInit();
  root.write("/bin/uname", "#!/bin/sh\necho x86_64\n");
  chmodSync(join(root.root, "bin/uname"), 0o755);
  root.write(`/etc/edgeseal/seccomp/${inputs.name}.json`, text);
  const found = root.observe(seccompProfile.observe(inputs));
  if (found.outcome !== "present") throw new Error("not observed");
  return found.state;
}

const inputsOf = (variant: (typeof variants)[number], ...additionalSyscalls: string[]) => ({
  name: "inference",
  variant,
  additionalSyscalls,
});

describe.each(variants)("under the profile for %s", (variant) => {
  test("calls that it refuses fail, calls that it allows don't, and the kernel agrees with what the file means", () => {
    const inputs = inputsOf(variant);
    const { trial, letThrough, undecided } = observed(inputs);
    // Nothing is undecided: each refused call got another answer without the profile.
    expect({ trial, letThrough, undecided }).toEqual({
      trial: "done",
      letThrough: lettingThrough(seccompDocument(inputs)),
      undecided: [],
    });
  });
});

test("llama-server gets a file to read and a socket file, of all that is tried", () => {
  expect(observed(inputsOf("llama-server")).letThrough).toEqual(["openat-read", "socket-unix"]);
  expect(triedCalls.length).toBeGreaterThan(40);
});

test("a call that is added is let through, and no other", () => {
  expect(observed(inputsOf("llama-server", "unshare")).letThrough).toEqual([
    "unshare",
    "openat-read",
    "socket-unix",
  ]);
});

test("the twin: a profile that allows everything lets all of them through", () => {
  const inputs = inputsOf("llama-server");
  const open = seccompDocument(inputs)
    .replace('"defaultAction": "SCMP_ACT_ERRNO"', '"defaultAction": "SCMP_ACT_ALLOW"')
    // What is refused by name stays so.
    .replace('"errnoRet": 38', '"errnoRet": 22');
  const { letThrough, undecided } = observed(inputs, open);
  expect([...letThrough, ...undecided].sort()).toEqual(triedCalls.map(({ name }) => name).sort());
  // A kernel without modules has no such call, whoever asks.
  expect(undecided.filter((name) => name !== "finit_module")).toEqual([]);
});
