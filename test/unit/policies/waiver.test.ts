import { expect, test } from "vitest";
import { parseDay, standing, waiverFor } from "../../../policies/waiver.ts";
import { waiver } from "./cases.ts";

test.each([
  ["the day before", "2027-01-30T12:00:00Z", true, "until 2027-01-31"],
  ["the last moment of its last day", "2027-01-31T23:59:59.999Z", true, "until 2027-01-31"],
  ["the first moment after", "2027-02-01T00:00:00Z", false, "expired on 2027-01-31"],
  [
    "in a time zone where it is still the last day",
    "2027-01-31T23:30:00-05:00",
    false,
    "expired on 2027-01-31",
  ],
])("%s", (_, now, valid, text) => {
  expect(standing(waiver(), new Date(now))).toEqual({ valid, text });
});

test.each([
  "",
  "soon",
  "2027-13-01",
  "2027-02-30",
  "2027-2-3",
  "31.01.2027",
  "2027-01-31T00:00:00Z",
  " 2027-01-31",
])("the expiry %j is no date, so it counts as expired", (expires) => {
  expect(parseDay(expires)).toBeUndefined();
  expect(standing(waiver({ expires }), new Date("2020-01-01T00:00:00Z"))).toEqual({
    valid: false,
    text: `counts as expired: ${JSON.stringify(expires)} is not a date (YYYY-MM-DD)`,
  });
});

test("a leap day is a date", () => {
  expect(parseDay("2028-02-29")).toEqual(new Date("2028-02-29T00:00:00Z"));
  expect(parseDay("2027-02-29")).toBeUndefined();
});

const now = new Date("2027-01-01T00:00:00Z");

test.each([
  ["its node and control", {}, true],
  ["every node", { node: "*" }, true],
  ["another node", { node: "pi-2" }, false],
  ["another control", { control: "3.core-dumps-off" }, false],
  ["a control by a part of its id", { control: "3" }, false],
  ["nodes by a pattern, which there is not", { node: "pi-*" }, false],
])("a waiver that names %s", (_, changes, applies) => {
  expect(waiverFor([waiver(changes)], "3.swap-off", "pi-1", now) !== undefined).toBe(applies);
});

test("of several, one that holds is taken, whatever their order", () => {
  const expired = waiver({ expires: "2026-01-01", owner: "a" });
  const holding = waiver({ owner: "b" });
  expect(waiverFor([expired, holding], "3.swap-off", "pi-1", now)?.waiver.owner).toBe("b");
  expect(waiverFor([holding, expired], "3.swap-off", "pi-1", now)?.waiver.owner).toBe("b");
  expect(waiverFor([expired], "3.swap-off", "pi-1", now)?.standing.valid).toBe(false);
});
