import { readdirSync, readFileSync, statSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { revertUnit, revertUnitFile } from "../../provider/device/revert-script.ts";
import { bootUnit, bootUnitName } from "../../provider/resources/firewall-boot.ts";
import { trialUnits } from "../../provider/resources/firmware-config-trial.ts";
import { asService } from "../../provider/resources/inference-container-podman.ts";
import { unitFiles } from "../../provider/resources/inference-container-unit.ts";
import { onDevice } from "../../provider/resources/managed-files.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { example, loosened } from "../unit/resources/inference-container-example.ts";

/*
 * docs/unit-exposure.md says of every service that edgeseal installs how exposed it is; here systemd says it.
 */

/** The unit that the program for updates writes when it is armed. */
const updateUnit =
  /<<UNIT\n(# [^\n]*\n\[Unit\]\nDescription=Judge.*?)\nUNIT\n/s.exec(onDevice("keep-boot"))?.[1] ?? "";

const others = {
  ollama: { ...example, variant: "ollama" },
  hailo: { ...loosened({ devices: ["/dev/hailo0"] }), variant: "hailo" },
} as const;

const servicesOf = (inputs: typeof example, variant = ""): readonly (readonly [string, string])[] =>
  Object.entries(unitFiles({ ...inputs, port: 8080 }))
    .filter(([name]) => name.endsWith(".service"))
    .map(([name, text]) => [`${name}${variant}`, text]);

const units: Readonly<Record<string, string>> = {
  [bootUnitName]: bootUnit,
  [revertUnit]: revertUnitFile,
  "edgeseal-volumes.service": onDevice("edgeseal-volumes.service"),
  "edgeseal-cap-pcr15.service": onDevice("edgeseal-cap-pcr15.service"),
  "edgeseal-update.service": updateUnit,
  ...trialUnits,
  ...Object.fromEntries([
    ...servicesOf(example),
    ...Object.entries(others).flatMap(([variant, inputs]) => servicesOf(inputs, ` (${variant})`)),
  ]),
};

const page = readFileSync(new URL("../../docs/unit-exposure.md", import.meta.url), "utf8");
const table = new Map(
  [...page.matchAll(/^\| `([^`]+)`( \([a-z]+\))? +\| +([\d.]+) \|/gm)].map(
    ([, unit = "", variant = "", figure = ""]) => [unit + variant, figure],
  ),
);

let node: NamespaceNode;
beforeAll(async () => {
  node = await NamespaceNode.start();
});
afterAll(() => node.stop());

test("the table has every service, and no other", () => {
  expect([...table.keys()].sort()).toEqual(Object.keys(units).sort());
});

test("no service that the provider names is left out of it", () => {
  const provider = new URL("../../provider/", import.meta.url);
  const named = readdirSync(provider, { recursive: true, encoding: "utf8" })
    .filter((path) => statSync(new URL(path, provider)).isFile())
    .flatMap(
      (path) =>
        readFileSync(new URL(path, provider), "utf8").match(/\bedgeseal(-[a-z\d]+)+\.service\b/g) ?? [],
    );
  expect(named).toContain(revertUnit);
  expect(Object.keys(units)).toEqual(expect.arrayContaining([...new Set(named)]));
});

/** What systemd says of a unit's text. */
async function exposureOf(unit: string, text: string): Promise<string> {
  const said = await node.must(
    `cat >/run/${unit} <<'END_OF_UNIT'\n${text}\nEND_OF_UNIT\nsystemd-analyze security --no-pager --offline=true /run/${unit} | tail -n 1`,
  );
  return / ([\d.]+) [A-Z]+/.exec(said)?.[1] ?? expect.fail(said);
}

test.each(Object.keys(units))("%s is as exposed as the table says", async (key) => {
  const [unit = ""] = key.split(" ");
  const figure = await exposureOf(unit, units[key] ?? "");
  expect(figure).toBe(table.get(key));
  expect(Number(figure)).toBeLessThan(4);
});

test("the passing unit in which podman pulls is as exposed as the page says", async () => {
  const command = asService(example, "pull", ["pull", "x"]);
  const properties = [...command.matchAll(/ -p (?:'([^']*)'|(\S+))/g)].map(
    ([, quoted, plain]) => quoted ?? plain,
  );
  expect(properties).toContain("User=edgeseal-inference");
  const text = ["[Service]", "ExecStart=/bin/true", ...properties].join("\n");
  const figure = await exposureOf("edgeseal-inference-pull.service", text);
  expect(figure).toBe(/`edgeseal-NAME-pull`[^]*? has ([\d.]+)/.exec(page)?.[1]);
});
