import { expect, test } from "vitest";
import { editDistance, nearest } from "../../../../provider/check/nearest.ts";

const known = ["node", "address", "port", "user", "hostKey", "privateKey", "identityFile", "agent"];

test.each([
  ["prot", "port"],
  ["Port", "port"],
  ["hostkey", "hostKey"],
  ["adress", "address"],
  ["identiyFile", "identityFile"],
])("%s was meant to be %s", (word, meant) => {
  expect(nearest(word, known)).toBe(meant);
});

test.each(["", "password", "x", "hostname"])("%s is near to none", (word) => {
  expect(nearest(word, known)).toBeUndefined();
});

test.each([
  ["", "abc", 3],
  ["abc", "abc", 0],
  ["abcd", "abdc", 1],
  ["kitten", "sitting", 3],
])("from %s to %s it is %i", (a, b, distance) => {
  expect(editDistance(a, b)).toBe(distance);
});
