import { describe, expect, test } from "vitest";
import {
  AmbiguousJson,
  canonicalJson,
  parseUnambiguousJson,
} from "../../../provider/trust/canonical-json.ts";

describe("the canonical form", () => {
  test("of RFC 8785, 3.2.2", () => {
    const text = String.raw`{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
      "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}`;
    expect(canonicalJson(JSON.parse(text))).toBe(
      String.raw`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],` +
        String.raw`"string":"€$\u000f\nA'B\"\\\\\"/"}`,
    );
  });

  test("sorts keys by UTF-16 code units: RFC 8785, 3.2.3", () => {
    const text = String.raw`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
      "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`;
    const values = [...canonicalJson(JSON.parse(text)).matchAll(/:"([^"]*)"/g)].map(([, value]) => value);
    expect(values).toEqual([
      "Carriage Return",
      "One",
      "Control",
      "Latin Small Letter O With Diaeresis",
      "Euro Sign",
      "Emoji: Grinning Face",
      "Hebrew Letter Dalet With Dagesh",
    ]);
  });

  test.each([
    [-0, "0"],
    [1e21, "1e+21"],
    [123456789012345680000, "123456789012345680000"],
    [5e-324, "5e-324"],
    [{}, "{}"],
    [[], "[]"],
    [{ b: { d: 1, c: [] }, a: null }, '{"a":null,"b":{"c":[],"d":1}}'],
  ])("of %j is %s", (value, text) => expect(canonicalJson(value)).toBe(text));

  test.each([
    ["undefined", undefined],
    ["a field that is undefined", { a: undefined }],
    ["NaN", Number.NaN],
    ["infinity", [Number.POSITIVE_INFINITY]],
    ["half a surrogate pair", "\ud83d"],
    ["half a surrogate pair as a key", { "\ude00": 1 }],
    ["a big integer", 1n],
    ["a date", new Date(0)],
    ["a map", new Map()],
    ["a function", () => 1],
  ])("does not exist for %s", (_, value) => expect(() => canonicalJson(value)).toThrow(TypeError));
});

describe("parsing", () => {
  test.each([
    ['{"a": [1, "x  \\" y", true],\n "b" : {} }\n', { a: [1, 'x  " y', true], b: {} }],
    ['  "é\\n"', "é\n"],
    ["-12.5e-7", undefined],
    ["0", 0],
    ["\r\n[ ]\t", []],
  ])("takes %j where it can be read in one way only", (text, value) => {
    if (value === undefined) expect(() => parseUnambiguousJson(text)).toThrow(AmbiguousJson);
    else expect(parseUnambiguousJson(text)).toEqual(value);
  });

  test.each([
    ["a key given twice", '{"a":1,"b":2,"a":1}'],
    ["a key given twice, deep inside", '{"x":[{"digest":"1","digest":"2"}]}'],
    ["a key given twice, once with an escape", String.raw`{"a":1,"\u0061":2}`],
    ["a needless escape", String.raw`["\u0041"]`],
    ["another spelling of a number", "[1.0]"],
    ["a number out of range", "[1e999]"],
    ["an integer that loses digits", "[9007199254740993]"],
    ["a trailing comma", "[1,]"],
    ["two documents", "{} {}"],
    ["nothing", ""],
    ["a byte order mark", "\ufeff{}"],
  ])("refuses %s", (_, text) => expect(() => parseUnambiguousJson(text)).toThrow(AmbiguousJson));

  test("says near what it stumbled", () => {
    expect(() => parseUnambiguousJson('{"node":"pi-1","node":"pi-2"}')).toThrow(
      /near .*pi-1.*a key is given twice/,
    );
  });

  test("keeps a key named __proto__ as data", () => {
    const value = parseUnambiguousJson('{"__proto__":{"version":1}}');
    expect(Object.hasOwn(value as object, "__proto__")).toBe(true);
    expect((value as { version?: number }).version).toBeUndefined();
  });
});
