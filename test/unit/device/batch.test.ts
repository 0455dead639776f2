import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  isComplete,
  newNonce,
  parseProbes,
  renderProbes,
  renderScript,
  requireComplete,
  unfinishedPart,
} from "../../../provider/device/batch.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import type { Probe } from "../../../provider/device/probe.ts";

const nonce = "0123456789abcdef";

function probe(id: string, parts: Record<string, string>): Probe<unknown> {
  return { id, parts, parse: () => undefined };
}

/** Runs a script as the device layer does: a shell that evaluates its standard input. */
function sh(script: string, shell = "/bin/sh"): { code: number; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(shell, ["-c", 'eval "$(cat)"'], {
    input: script,
    encoding: "utf8",
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
    maxBuffer: 1 << 26,
  });
  return { code: status ?? -1, stdout, stderr };
}

function answer(probes: readonly Probe<unknown>[]): ReturnType<typeof parseProbes> {
  const result = sh(renderScript(renderProbes(probes, nonce), nonce));
  expect(isComplete(result.stdout, result.stderr, nonce)).toBe(true);
  return parseProbes(result.stdout, result.stderr, nonce);
}

describe("answers come back byte for byte", () => {
  test.each([
    ["nothing", ":", ""],
    ["one line", "echo one", "one\n"],
    ["no line feed at the end", "printf one", "one"],
    ["line feeds at both ends", "printf '\\n\\none\\n\\n'", "\n\none\n\n"],
    ["quotes of both kinds", `printf %s "it's \\"so\\""`, `it's "so"`],
    ["characters beyond ASCII", "printf %s 'Füße 🔐'", "Füße 🔐"],
    ["a here-document", "cat <<'X'\n$HOME\nX", "$HOME\n"],
    ["carriage returns", "printf 'a\\r\\nb\\r'", "a\r\nb\r"],
  ])("%s", (_what, fragment, stdout) => {
    expect(answer([probe("p", { part: fragment })]).get("p")).toEqual({
      part: { code: 0, stdout, stderr: "" },
    });
  });

  test("two megabytes", () => {
    const part = answer([probe("p", { part: "head -c 2000000 /dev/zero | tr '\\0' x" })]).get("p")?.["part"];
    expect(part?.stdout).toBe("x".repeat(2_000_000));
  });
});

describe("a part spoils nothing but itself", () => {
  test.each([
    ["exits", "echo before; exit 3", { code: 3, stdout: "before\n", stderr: "" }],
    [
      "does not parse",
      "if then",
      { code: 2, stdout: "", stderr: expect.stringContaining("Syntax error") as string },
    ],
    [
      "uses an unset variable",
      "echo $nope",
      { code: 2, stdout: "", stderr: expect.stringContaining("nope") as string },
    ],
    ["kills itself", "sh -c 'kill -9 $$'", { code: 137, stdout: "", stderr: expect.any(String) as string }],
    ["changes folder and variables", "cd /tmp; nonce=1; PATH=", { code: 0, stdout: "", stderr: "" }],
    ["redefines our function", "edgeseal_mark() { :; }", { code: 0, stdout: "", stderr: "" }],
    ["closes its outputs", "exec >&- 2>&-", { code: 0, stdout: "", stderr: "" }],
    ["reads standard input", "cat; echo end", { code: 0, stdout: "end\n", stderr: "" }],
    ["is not terminated", "echo 'open", { code: 2, stdout: "", stderr: expect.any(String) as string }],
    [
      "tries to close the script's group",
      "}; touch /nonexistent/x; {",
      { code: 2, stdout: "", stderr: expect.any(String) as string },
    ],
  ])("when it %s", (_how, fragment, expected) => {
    const answers = answer([probe("bad", { part: fragment }), probe("good", { part: "pwd; echo fine >&2" })]);
    expect(answers.get("bad")).toEqual({ part: expected });
    expect(answers.get("good")).toEqual({ part: { code: 0, stdout: "/\n", stderr: "fine" } });
  });
});

describe("framing", () => {
  test("noise before, after and in between on both outputs changes nothing", () => {
    const script = renderScript(renderProbes([probe("p", { a: "echo A", b: "echo B >&2" })], nonce), nonce);
    const { stdout, stderr } = sh(
      `echo Welcome; printf 'no line feed'; echo warning >&2; printf half >&2\n${script}\necho Bye; echo Bye >&2`,
    );
    expect(parseProbes(stdout, stderr, nonce).get("p")).toEqual({
      a: { code: 0, stdout: "A\n", stderr: "" },
      b: { code: 0, stdout: "", stderr: "B" },
    });
  });

  test("device data that looks like framing is data", () => {
    const forged =
      "\n@ffffffffffffffff end 0\n\n@ffffffffffffffff begin other part\nforged\n\n@ffffffffffffffff end 0\n";
    const answers = answer([probe("p", { part: `printf '${forged.replaceAll("\n", "\\n")}'` })]);
    expect([...answers.keys()]).toEqual(["p"]);
    expect(answers.get("p")?.["part"]?.stdout).toBe(forged);
  });

  test("an answer that was cut off anywhere is missing, never empty or short", () => {
    const probes = [probe("p", { a: "printf 1234567890", b: "echo b" })];
    const { stdout, stderr } = sh(renderScript(renderProbes(probes, nonce), nonce));
    for (let length = 0; length < stdout.length; length++) {
      const cut = stdout.slice(0, length);
      const a = parseProbes(cut, stderr, nonce).get("p")?.["a"];
      if (a !== undefined) expect(a).toEqual({ code: 0, stdout: "1234567890", stderr: "" });
      expect(isComplete(cut, stderr, nonce), `complete after ${length} bytes`).toBe(false);
    }
  });

  test("names the part that was under way when the output stopped", () => {
    const { stdout } = sh(
      renderScript(renderProbes([probe("p", { a: "echo a" }), probe("q", { b: "echo b" })], nonce), nonce),
    );
    expect(unfinishedPart(stdout, nonce)).toBeUndefined();
    expect(unfinishedPart(stdout.slice(0, stdout.indexOf("\nb\n") + 1), nonce)).toBe("q b");
  });

  test("an incomplete answer is an error that says where it stopped", () => {
    const result = {
      code: undefined,
      signal: "KILL",
      stdout: `\n@${nonce} begin swap areas\nhalf`,
      stderr: "oops",
    };
    expect(() => requireComplete("pi-1", result, nonce)).toThrow(DeviceError);
    expect(() => requireComplete("pi-1", result, nonce)).toThrow(
      /pi-1: .*by signal KILL in 'swap areas' \(oops\)/,
    );
  });

  test.each(["", "two words", "quote'", "line\nfeed", "$(id)", "-n"])("refuses the name %j", (name) => {
    expect(() => renderProbes([probe(name, { part: ":" })], nonce)).toThrow(TypeError);
    expect(() => renderProbes([probe("p", { [name]: ":" })], nonce)).toThrow(TypeError);
  });

  test("refuses two probes with one id", () => {
    expect(() => renderProbes([probe("p", { a: ":" }), probe("p", { b: ":" })], nonce)).toThrow(/'p'/);
  });

  test("nonces do not repeat", () => {
    expect(new Set(Array.from({ length: 1000 }, newNonce)).size).toBe(1000);
  });
});

describe.each(["/bin/sh", "/bin/bash"])("a truncated script runs nothing (%s)", (shell) => {
  test("at any byte", () => {
    const folder = mkdtempSync(join(tmpdir(), "edgeseal-truncated-"));
    try {
      const body = `touch ${folder}/first\ncat <<'END' >${folder}/second\ntext\nEND\n(eval 'touch ${folder}/third')\ntouch ${folder}/fourth`;
      const script = renderScript(body, nonce).trimEnd();
      // The whole of it does run, or the rest would prove nothing.
      sh(script, shell);
      expect(readdirSync(folder)).toHaveLength(4);
      for (const name of readdirSync(folder)) rmSync(join(folder, name));
      const stride = shell === "/bin/sh" ? 1 : 3;
      for (let length = 0; length < script.length; length += stride) {
        sh(script.slice(0, length), shell);
        expect(readdirSync(folder), `after ${length} of ${script.length} bytes`).toEqual([]);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
