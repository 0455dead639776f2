import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules/", ".edgeseal/"] },
  eslint.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // Numbers and booleans in messages are what this project prints all day.
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true },
      ],
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "no-restricted-syntax": [
        "error",
        {
          selector: "ExportDefaultDeclaration",
          message: "Named exports only: one name, found by one search.",
        },
      ],
      eqeqeq: "error",
      // Shell output carries control characters on purpose (NUL-separated lists, ESC).
      "no-control-regex": "off",
    },
  },
  { files: ["**/*.config.ts", "eslint.config.js"], rules: { "no-restricted-syntax": "off" } },
  { files: ["**/*.cjs"], languageOptions: { globals: { require: "readonly", module: "readonly" } } },
);
