"""Finance: a question about money or investing, answered by explaining prose."""

from __future__ import annotations

import numpy as np

from workloads.text.sample import Facts, Recipe, Sample, pick, words

_ASSETS = words(
    "index fund|municipal bond|Treasury bill|REIT|dividend stock|money market fund|target-date "
    "fund|corporate bond|annuity|growth ETF|certificate of deposit|commodity ETF|small-cap fund|savings "
    "bond|preferred share"
)
_ACCOUNTS = words(
    "Roth IRA|401(k)|brokerage account|HSA|529 plan|traditional IRA|SEP IRA|savings account|403(b)|pension"
)
_DEBTS = words(
    "mortgage|student loan|car loan|credit card balance|home equity line|personal loan|margin "
    "loan|payday loan"
)
_TERMS = words(
    "amortization|short selling|dollar-cost averaging|compound interest|capital gains tax|a stop-loss "
    "order|vesting|the yield curve|a wash sale|escrow|market capitalization|liquidity|a call "
    "option|depreciation|a stock split|asset allocation"
)
_RISKS = words(
    "inflation|volatility|default risk|interest rate risk|currency swings|a recession|high fees|concentration"
)
_FIRMS = words(
    "Acme Holdings|Borealis Energy|Crestline Bank|Delmar Foods|Everett Motors|Fairway Insurance|Granite "
    "Pharma|Helix Software|Ironwood Rail|Juniper Mining"
)
_METRICS = words(
    "P/E ratio|debt-to-equity ratio|dividend yield|free cash flow|operating margin|return on equity|book "
    "value"
)
_GOALS = words(
    "retirement|a down payment|college tuition|an emergency fund|a sabbatical|early retirement|an inheritance"
)


def _facts(rng: np.random.Generator) -> Facts:
    first, second = rng.choice(len(_ASSETS), size=2, replace=False)
    return {
        "asset": _ASSETS[first], "asset2": _ASSETS[second], "account": pick(rng, _ACCOUNTS), "debt": pick(rng, _DEBTS),
        "term": pick(rng, _TERMS), "risk": pick(rng, _RISKS), "firm": pick(rng, _FIRMS), "metric": pick(rng, _METRICS),
        "goal": pick(rng, _GOALS), "usd": f"${int(rng.integers(3, 250))},000",
        "rate": f"{int(rng.integers(8, 98)) / 4}%",
        "years": int(rng.integers(2, 31)), "tax": f"{int(rng.integers(10, 38))}%",
    }  # fmt: skip


def _asks(*questions: str) -> tuple[str, ...]:
    return tuple("Question: " + question + "\nAnswer: " for question in questions)


_BUT = "<However|That said|On the other hand|Still>"
_GENERALLY = "<Generally|As a rule|Historically|In most cases|Typically>"
_ALSO = (
    " <Before deciding|In any event|Over time|Either way>, <compare fees|read the prospectus|check the "
    "spread|ask a planner|watch {risk}> and <keep a cash reserve|review the {account}|stay "
    "diversified|mind the tax bill|revisit {goal}>."
)
_LEGAL = "<Pursuant to prevailing guidance|From a fiduciary perspective|In accordance with prudent practice>"
_CAVEAT = (
    " <Past performance does not guarantee future results.|Consult a licensed adviser.|Individual "
    "circumstances vary.>"
)

_RECIPES = (
    Recipe(
        _facts,
        _asks(
            "What is the difference between a {asset} and a {asset2} if I worry about {risk}?",
            "Is a {asset} <safer|better> than a {asset2} when my main concern is {risk}?",
        ),
        (
            _GENERALLY
            + ", a {asset} <offers|pays> <steadier income|lower returns|more liquidity> than a {asset2}. "
            + _BUT
            + ", {risk} <erodes|affects|hurts> <both|the latter more>, so investors <diversify|hold a "
            "mix|rebalance yearly>." + _ALSO,
            "A {asset} and a {asset2} <respond differently|are not alike> to {risk}. The former <trades "
            "daily|depends on the issuer|tracks a benchmark>; the latter <locks up capital|carries more "
            "upside>. Holding both <spreads|limits> the exposure." + _ALSO,
        ),
        (
            _LEGAL
            + ", the principal distinction between a {asset} and a {asset2} resides in their sensitivity "
            "to {risk}. Investors should evaluate duration, creditworthiness and expense ratios." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Should I put {usd} into my {account} or pay off a {debt} at {rate} interest?",
            "I inherited {usd}. Is it smarter to prepay the {debt} at {rate} or fund a {account}?",
        ),
        (
            "Paying down a {debt} at {rate} is a <guaranteed|risk-free> return of {rate}. A {account} "
            "<might earn more|grows tax-free|has an employer match>. "
            + _BUT
            + ", with {usd} you could <split the money|do both|cover the match first> and <keep some "
            "cash|reduce the principal>." + _ALSO,
            "Compare {rate} with what the {account} is <expected|likely> to earn. If the {debt} costs "
            "more, <retire it first|prepay it>. "
            + _GENERALLY
            + ", {usd} should <not sit idle|go where the after-tax yield is higher>."
            + _ALSO,
        ),
        (
            _LEGAL
            + ", the {debt} bearing {rate} per annum should be extinguished prior to contributing {usd} to "
            "a {account}, unless the anticipated yield demonstrably exceeds the borrowing cost." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Can you explain {term} in simple terms, and how it matters for a {asset}?",
            "How does {term} work, and does it change when I hold a {asset} in a {account}?",
        ),
        (
            "In short, {term} <describes|refers to> how <value changes over time|costs are spread|gains "
            "are treated>. For a {asset}, it <affects|determines> the <price you realize|taxable "
            "amount|net return>. " + _BUT + ", <fees|holding periods> also matter." + _ALSO,
            "Think of {term} as <a rule about timing|a way to measure cost|a safeguard>. "
            + _GENERALLY
            + ", owners of a {asset} <notice it|feel it> when they <sell|rebalance|file taxes>, <less "
            "so|more so> inside a {account}." + _ALSO,
        ),
        (
            "By definition, {term} constitutes a <mechanism|convention|principle> governing the "
            "recognition of economic value. "
            + _LEGAL
            + ", its application to a {asset} must be disclosed to shareholders."
            + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "I have {years} years until I need money for {goal}. Is a {asset} a good place for {usd}?",
            "How should I invest {usd} for {goal} with a horizon of {years} years?",
        ),
        (
            "With {years} years to go, {goal} <allows|calls for> <some equity risk|a balanced "
            "portfolio|caution>. A {asset} <can fit|may suit you>, "
            + "but {risk} <is a threat|matters>. "
            + _GENERALLY
            + ", <automate contributions|invest {usd} in stages|shift to bonds> as the date nears."
            + _ALSO,
            "The horizon <drives|decides> the allocation: {years} years is <long enough|plenty|short>. "
            "Put {usd} in a <low-cost|diversified> {asset}, <review it annually|reinvest dividends>, and "
            "treat {goal} as <a separate bucket|the benchmark>." + _ALSO,
        ),
        (
            _LEGAL
            + ", a capital sum of {usd} designated for {goal} over {years} years warrants a documented "
            "investment policy. Exposure to {risk} should be mitigated through diversification." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Why did shares of {firm} drop after earnings although its {metric} improved this quarter?",
            "What does the {metric} tell me about {firm}, and is the stock undervalued?",
        ),
        (
            "The market prices {firm} on <expectations|guidance|future earnings>, not <only|just> its "
            "{metric}. If analysts <expected more|cut their targets|fear {risk}>, the shares "
            "<fall|slide> anyway. "
            + _BUT
            + ", a <rising|healthy> {metric} is <encouraging|a good sign>."
            + _ALSO,
            "A {metric} is <one lens|a starting point>. Compare {firm} with <its peers|the sector|its "
            "own history>, and <check the balance sheet|read the 10-K|look at cash flow>. "
            + _GENERALLY
            + ", {risk} <explains|accounts for> the discount."
            + _ALSO,
        ),
        (
            "The valuation of {firm} reflects forward-looking consensus rather than the reported "
            "{metric}. "
            + _LEGAL
            + ", adverse revisions attributable to {risk} may precipitate repricing."
            + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Do I owe taxes if I sell a {asset} in my {account} at a gain of {usd}? My bracket is {tax}.",
            "How is a {usd} profit from a {asset} taxed in the {tax} bracket?",
        ),
        (
            "It depends on the <account|holding period>. A gain of {usd} from a {asset} is <taxed as "
            "income at {tax}|a capital gain>, <unless|except if> it <sits in a {account}|was held over a "
            "year>. " + _GENERALLY + ", <losses offset gains|the broker sends a 1099>." + _ALSO,
            "In the {tax} bracket, <short-term|ordinary> gains on a {asset} are taxed at {tax}, so <set "
            "aside|reserve> part of the {usd}. "
            + _BUT
            + ", a {account} <defers|may shelter> the tax, <and state rules differ|subject to limits>."
            + _ALSO,
        ),
        (
            _LEGAL
            + ", realized proceeds of {usd} attributable to a {asset} are subject to a marginal rate of "
            "{tax}, save where statutory deferral applies under a {account}." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "My bank offers a {debt} refinance at {rate} over {years} years. Is it worth the closing costs?",
            "Would refinancing my {debt} to {rate} for {years} years hurt my credit score?",
        ),
        (
            "Refinancing a {debt} at {rate} <pays off|makes sense> when the <interest saved|lower "
            "payment> exceeds the <fees|closing costs>. Over {years} years, <total interest|the "
            "breakeven point> <matters most|is key>. "
            + _BUT
            + ", a <hard inquiry|new lender> <dents the score|resets the clock>."
            + _ALSO,
            "<Compute|Find> the breakeven: fees divided by monthly savings. If you keep the {debt} <past "
            "it|longer>, {rate} is <attractive|a bargain>. "
            + _GENERALLY
            + ", stretching to {years} years <raises|adds to> the interest paid."
            + _ALSO,
        ),
        (
            _LEGAL
            + ", refinancing the {debt} at a nominal rate of {rate} over {years} years is justified solely "
            "where the net present value of interest savings exceeds all transaction costs." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "How much of my portfolio should be in a {asset} given {risk} and a {usd} balance?",
            "Is it risky to keep {usd}, my entire portfolio, in {firm} stock because of {risk}?",
        ),
        (
            _GENERALLY + ", no single <holding|position> should exceed <five|ten> percent. With {usd} <at "
            "stake|invested>, {risk} <could|would> <wipe out|shrink> years of gains. <Trim it|Sell in "
            "tranches|Rebalance> into a {asset2} or <cash|broad funds>." + _ALSO,
            "Concentration <cuts both ways|is dangerous>: {usd} can <double|halve> quickly. {risk} <is "
            "hard to predict|hits without warning>, so <cap the stake|use a {asset2} as ballast|hedge>. "
            + _BUT
            + ", <taxes|spreads> may <slow the exit|argue for patience>."
            + _ALSO,
        ),
        (
            _LEGAL + ", an aggregate position of {usd} should be apportioned among uncorrelated instruments, "
            "including a {asset2}, so as to attenuate the impact of {risk}." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Is a {account} enough for {goal}, or do I need a {asset} as well after {years} years of work?",
            "When should I move from a {asset} to a {asset2} inside my {account} for {goal}?",
        ),
        (
            "A {account} is <a solid base|tax-efficient> for {goal}, <yet|but> contribution limits "
            "<bite|apply>. "
            + _GENERALLY
            + ", a {asset} <fills the gap|adds growth>, <particularly|above all> with {years} years "
            "<behind you|of earnings>. Mind {risk}." + _ALSO,
            "<Shift gradually|Move in steps>: keep the {asset} while <returns outpace|you can bear> "
            "{risk}, then <tilt|rotate> the {account} to a {asset2}. For {goal}, <sequence of "
            "returns|withdrawal timing> matters <more than yield|a lot>." + _ALSO,
        ),
        (
            _LEGAL
            + ", the sufficiency of a {account} for {goal} must be assessed actuarially. Supplementary "
            "allocation to a {asset} may prove advantageous, notwithstanding {risk}." + _CAVEAT,
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "If I save {usd} at {rate} for {years} years in a {account}, will {risk} eat the returns?",
            "What happens to {usd} earning {rate} over {years} years once {risk} and fees are counted?",
        ),
        (
            "Compounding {usd} at {rate} for {years} years <builds real wealth|adds up>, yet the real "
            "return is {rate} <minus inflation|after costs>. {risk} <lowers|trims> it. "
            + _GENERALLY
            + ", <cheap funds|low expense ratios> in a {account} <preserve|protect> the <gain|yield>."
            + _ALSO,
            "The nominal growth of {rate} <looks|sounds> <generous|modest>; over {years} years, "
            "<fees|expenses> and {risk} <compound too|take a share>. "
            + _BUT
            + ", {usd} left in a {account} <outpaces cash|should keep its purchasing power>."
            + _ALSO,
        ),
        (
            _LEGAL
            + ", a principal of {usd} accruing at {rate} over {years} years must be discounted for {risk}. "
            "The inflation-adjusted yield constitutes the relevant measure." + _CAVEAT,
        ),
    ),
)


def sample(rng: np.random.Generator, style: str = "plain") -> Sample:
    """A question and the explanation."""
    return pick(rng, _RECIPES).sample(rng, "finance", style)
