import { expect, test } from "vitest";
import { isTooWide } from "../../../policies/reach.ts";

test.each([
  "192.0.2.1",
  "192.0.2.0/24",
  "10.0.0.0/8",
  "fc00::/7",
  "2001:db8::1",
  "192.0.2.1-192.0.2.9",
  "10.0.0.0-10.255.255.255",
])("%s is an endpoint", (text) => expect(isTooWide(text)).toBe(false));

test.each([
  ["everything", "0.0.0.0/0"],
  ["everything", "::/0"],
  ["half of everything", "128.0.0.0/1"],
  ["more than the largest private network", "8.0.0.0/7"],
  ["all of the global IPv6 space", "2000::/3"],
  ["a wide range", "1.0.0.0-223.255.255.255"],
  ["a range of two families", "192.0.2.1-2001:db8::1"],
  ["a name", "example.com"],
  ["a mask that is none", "10.0.0.0/x"],
  ["a negation", "!="],
  ["nothing", ""],
])("%s is too wide: %s", (_, text) => expect(isTooWide(text)).toBe(true));
