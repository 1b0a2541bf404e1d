"""`fastbert evaluate` as a script."""

from jobs.options import command

main = command("evaluate")

if __name__ == "__main__":
    main()
