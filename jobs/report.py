"""`fastbert report` as a script."""

from jobs.options import command

main = command("report")

if __name__ == "__main__":
    main()
