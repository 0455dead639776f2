import { chmodSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

import { startInference } from "../../../provider/resources/inference-container-files.ts";
import { FakeRoot } from "./fake-root.ts";

/*
 * The program that starts a server, waits for its answer, and goes back to what served before. A unit is one line here: how it behaves when it is started.
 */

const program = startInference;
const file = "/etc/systemd/system/edgeseal-inference.service";
const good = "/var/lib/edgeseal/inference/edgeseal-inference.service";

/** `show -P` of a property comes from a file of that name; a start does what the unit's text says. */
const systemctl = `#!/bin/sh
echo "systemctl $*" >>"$ROOT/calls"
case "$1 $2" in
"show -P") cat "$ROOT/shown/$3" 2>/dev/null || : ;;
"show -p") echo "Result=$(cat "$ROOT/shown/Result" 2>/dev/null)" ;;
"stop --") echo inactive >"$ROOT/shown/ActiveState"; echo 'no answer' >"$ROOT/answer" ;;
"start --no-block")
  echo activating >"$ROOT/shown/ActiveState" 
  echo 0 >"$ROOT/shown/NRestarts"
  case $(cat "$ROOT${file}") in
  serves) echo active >"$ROOT/shown/ActiveState"; echo healthy >"$ROOT/answer" ;;
  loads-for-ever) echo active >"$ROOT/shown/ActiveState"; echo loading >"$ROOT/answer" ;;
  is-skipped) echo inactive >"$ROOT/shown/ActiveState"; echo 'model-differs: other bytes' >"$ROOT/run/edgeseal/inference/inference" ;;
  fails) echo failed >"$ROOT/shown/ActiveState"; echo exit-code >"$ROOT/shown/Result" ;;
  ends) echo 2 >"$ROOT/shown/NRestarts"; echo exit-code >"$ROOT/shown/Result" ;;
  esac ;;
esac
`;
const stubs = {
  systemctl,
  journalctl: `#!/bin/sh
case $* in
*export*) printf 'INVOCATION_ID=1\\nMESSAGE=edgeseal-inference.service: Control process exited, code=exited, status=125/n/a\\n\\n' ;;
*cat*) printf 'srv a prompt\\nError: the image is not there\\n' ;;
esac
`,
};

function node(unit: string, lastGood?: string): FakeRoot {
  const root = new FakeRoot();
  for (const [name, script] of Object.entries(stubs)) {
    root.write(`/usr/sbin/${name}`, script);
    chmodSync(join(root.root, "usr/sbin", name), 0o755);
  }
  root.write(
    "/usr/lib/edgeseal/ask-inference",
    `#!/bin/sh\ncat "$ROOT/answer"; [ "$(cat "$ROOT/answer")" = healthy ]\n`,
  );
  chmodSync(join(root.root, "usr/lib/edgeseal/ask-inference"), 0o755);
  root.write("/run/edgeseal/inference/x", "");
  root.write("/shown/Job", "");
  // What served before still answers.
  root.write("/shown/ActiveState", "active\n");
  root.write("/answer", "healthy\n");
  root.write(file, unit);
  if (lastGood !== undefined) root.write(good, lastGood);
  return root;
}

const start = (root: FakeRoot) => root.sh(`set -- inference 2 /run/http.sock /health\n${program}`);

test("a unit that answers is the one to go back to from now on", () => {
  using root = node("serves");
  expect(start(root)).toMatchObject({ code: 0, stderr: "" });
  expect(root.read(good)).toBe("serves");
  expect(root.read(`${good}.asked`)).toBe("/run/http.sock /health \n");
});

test("it is the new one that has to answer: the old one is stopped before it is asked", () => {
  using root = node("loads-for-ever");
  expect(start(root).code).toBe(1);
  const calls = root.calls().map((call) => call.split(" ")[1]);
  expect(calls.indexOf("stop")).toBeLessThan(calls.indexOf("start"));
});

test.each([
  [
    "fails",
    /does not serve: Error: the image is not there \(journalctl -u edgeseal-inference\.service tells more\)$/,
  ],
  ["is-skipped", /does not serve: model-differs: other bytes$/],
  ["ends", /does not serve: it ended three times: Error: the image/],
  ["loads-for-ever", /does not serve: it did not answer within 2 s \(active\)$/],
])("one that %s is told why, and with nothing to go back to is left as it is", (unit, why) => {
  using root = node(unit);
  const { code, stderr } = start(root);
  expect(code).toBe(1);
  expect(stderr).toMatch(why);
  // What the server itself says could be a prompt.
  expect(stderr).not.toContain("a prompt");
  expect(root.read(file)).toBe(unit);
  expect(root.exists(good)).toBe(false);
});

test.each(["fails", "is-skipped", "ends", "loads-for-ever"])(
  "instead of one that %s, what served before serves again, and that is said",
  (unit) => {
    using root = node(unit, "serves");
    const { code, stderr } = start(root);
    expect(code).toBe(1);
    expect(stderr).toMatch(/does not serve with what is declared: .*; what served before serves again$/);
    expect(root.read(file)).toBe("serves");
    expect(root.read("/answer")).toBe("healthy\n");
  },
);

test("what served before at another address, as another variant does, is not gone back to", () => {
  using root = node("is-skipped", "serves");
  root.write(`${good}.asked`, "127.0.0.1:11434 /api/version namespace\n");
  const { code, stderr } = start(root);
  expect(code).toBe(1);
  expect(stderr).toMatch(
    /model-differs: other bytes; what served before is of another variant, and is not gone back to/,
  );
  expect(root.read(file)).toBe("is-skipped");
  root.write(`${good}.asked`, root.read(`${good}.asked`).replace(/.*/, "@ROOT/run/http.sock /health "));
  expect(start(root).stderr).toMatch(/what served before serves again$/);
});

test("where neither does, both reasons are told", () => {
  using root = node("is-skipped", "fails");
  expect(start(root).stderr).toMatch(
    /model-differs: other bytes; nor does what served before: Error: the image/,
  );
});

test("a unit that is the last good one itself is not gone back to", () => {
  using root = node("fails", "fails");
  expect(start(root).stderr).toMatch(/does not serve: Error/);
  expect(root.calls().filter((call) => call.startsWith("systemctl start"))).toHaveLength(1);
});

test("one that reads its model already is waited for: neither started nor gone back from", () => {
  using root = node("loads-for-ever", "serves");
  root.write("/answer", "loading\n");
  const { code, stderr } = root.sh(`set -- --wait inference 2 /run/http.sock /health\n${program}`);
  expect(code).toBe(1);
  expect(stderr).toMatch(/does not serve: it did not answer within 2 s \(active\)$/);
  expect(root.calls().filter((call) => /^systemctl (start|stop)/.test(call))).toEqual([]);
  root.write("/answer", "healthy\n");
  expect(root.sh(`set -- --wait inference 2 /run/http.sock /health\n${program}`).code).toBe(0);
});
