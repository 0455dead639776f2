import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { renderStep, sysctlPath, type PlainStep } from "../../../provider/device/render.ts";
import {
  debianPackage,
  directory,
  file,
  kernelModule,
  remove,
  run,
  sysctl,
  unit,
} from "../../../provider/device/step.ts";

const nasty = `a'b"c$(touch /nowhere)\`id\`\\ \t*?[x] ;&|<>(){}#~!`;

const steps: readonly PlainStep[] = [
  file({ title: "t", path: `/etc/${nasty.replaceAll("/", "")}`, content: nasty, mode: "0644" }),
  remove({ title: "t", path: `/etc/${nasty.replaceAll("/", "")}` }),
  directory({ title: "t", path: `/etc/${nasty.replaceAll("/", "")}`, mode: "0755" }),
  unit({
    title: "t",
    unit: "a@b\\x2d.service",
    enabled: true,
    active: false,
    masked: true,
    daemonReload: true,
  }),
  unit({ title: "t", unit: "a.socket", enabled: false, active: true, masked: false }),
  sysctl({ title: "t", key: "kernel.core_pattern", value: nasty.replaceAll("\t", " ") }),
  kernelModule({ title: "t", module: "dm-crypt", loaded: true }),
  kernelModule({ title: "t", module: "dm-crypt", loaded: false }),
  debianPackage({ title: "t", package: "g++-12", installed: true }),
  debianPackage({ title: "t", package: "g++-12", installed: false }),
];

test.each(steps)("the script of a $kind step is one that sh can parse, whatever its values hold", (step) => {
  execFileSync("/bin/sh", ["-n"], { input: renderStep(step).script });
});

test("content and secrets are in the standard input, never in the script", () => {
  const secret = "canary-content";
  const written = renderStep(file({ title: "t", path: "/etc/x", content: secret, mode: "0600" }));
  expect(written.script).not.toContain(secret);
  expect(Buffer.from(written.stdinBase64, "base64").toString()).toBe(secret);
  const used = renderStep(run({ title: "t", script: "cat", stdin: `${secret}\0\u00ff` }));
  expect(used.script).toBe("cat");
  expect(Buffer.from(used.stdinBase64, "base64").toString()).toBe(`${secret}\0\u00ff`);
});

test("a step's own deadline counts", () => {
  expect(renderStep(run({ title: "t", script: "" })).timeoutSeconds).toBe(60);
  expect(renderStep(run({ title: "t", script: "", timeoutSeconds: 5 })).timeoutSeconds).toBe(5);
});

describe("what can't be meant is refused before anything is sent", () => {
  test.each([
    [
      "a relative path",
      file({ title: "t", path: "etc/x", content: "", mode: "0644" }),
      "is not an absolute, normal path",
    ],
    ["a path that climbs", remove({ title: "t", path: "/etc/../x" }), "is not an absolute, normal path"],
    ["the root", remove({ title: "t", path: "/" }), "is not an absolute, normal path"],
    [
      "a trailing slash",
      directory({ title: "t", path: "/etc/x/", mode: "0755" }),
      "is not an absolute, normal path",
    ],
    [
      "a mode in letters",
      file({ title: "t", path: "/etc/x", content: "", mode: "u=rw" }),
      "'u=rw' is not an octal mode",
    ],
    [
      "half an owner",
      file({ title: "t", path: "/etc/x", content: "", mode: "0644", owner: "root" }),
      "'root' is not an owner",
    ],
    [
      "an option as owner",
      file({ title: "t", path: "/etc/x", content: "", mode: "0644", owner: "-R:root" }),
      "is not an owner",
    ],
    ["a unit without its type", unit({ title: "t", unit: "ssh" }), "'ssh' is not a unit name with its type"],
    ["an option as unit", unit({ title: "t", unit: "--root=/x.service" }), "is not a unit name"],
    [
      "a kernel parameter that climbs",
      sysctl({ title: "t", key: "net/../x", value: "1" }),
      "is not the name of a kernel parameter",
    ],
    ["a value of two lines", sysctl({ title: "t", key: "kernel.x", value: "1\n2" }), "is not one line"],
    [
      "an option as module",
      kernelModule({ title: "t", module: "-r", loaded: true }),
      "is not the name of a kernel module",
    ],
    [
      "an option as package",
      debianPackage({ title: "t", package: "-y", installed: true }),
      "is not the name of a Debian package",
    ],
    [
      "no time at all",
      run({ title: "t", script: "", timeoutSeconds: 0 }),
      "is not a whole number of seconds",
    ],
  ])("%s", (_, step, message) => {
    expect(() => renderStep(step)).toThrow(message);
  });
});

test.each([
  ["kernel.core_pattern", "/proc/sys/kernel/core_pattern"],
  ["net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward"],
  ["net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"],
  ["net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"],
])("the kernel parameter %s is the file %s", (key, path) => {
  expect(sysctlPath(key)).toBe(path);
});
